"""All runs: which there are, how they are, what they use."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.health import OVERALL
from rlhf_otel.catalogue.recorded import SEES_A_GPU, RunState
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.run_boards import with_board
from rlhf_otel.dashboards.panels import (
    BLUE,
    ORANGE,
    SCALE,
    SEVERITY_COLOR,
    good_above,
    good_below,
    lines,
    stat,
    threshold,
)
from rlhf_otel.dashboards.spec import Board, Kind, Panel, Query, Section, Threshold, Variables
from rlhf_otel.dashboards.states import RUN_STATES, RUNBOOK, SEVERITIES, board_link

NO_RUN: Final = "no run was scraped in this time"
NO_RECORDING: Final = "no run in this time, or Prometheus lacks alerts/rlhf.recording.yaml"
_STATE: Final = "run:rlhf_state:current"
_RUNNING: Final = f"{_STATE} == {RunState.RUNNING.value}"


def _firing(severity: Severity) -> str:
    return (
        f'count(count by (run_id, rule) (ALERTS{{alertstate="firing", severity="{severity}"}})) '
        f"or 0 * count({_STATE})"
    )


def _share(state: RunState) -> str:
    return f"count(last_over_time({_STATE}[$__range]) == {state.value}) or 0 * count(last_over_time({_STATE}[$__range]))"


def _gpu_hours(window: str = "") -> str:
    """Of each run of which rank 0 sees a GPU; a run on CPUs has none."""

    def known(series: str) -> str:
        return f"last_over_time({series}{window})" if window else series

    gpus = " or ".join(known(f'{name}{{rank="0"}}') for name in SEES_A_GPU)
    return f"{_BY_RUN} ({known('run:rlhf_rank_seconds:sum')}) / 3600 and on (run_id) ({gpus})"


_INFO: Final = 'last_over_time(rlhf_run_info{rank="0"}[$__range])'
_BY_RUN: Final = "max by (run_id)"

NOW: Final = Section(
    "Now",
    (
        stat(
            "Running",
            "Runs that train now and are not stalled.",
            "short",
            Query(f"count({_RUNNING}) or 0 * count(last_over_time({_STATE}[$__range]))"),
            empty=NO_RECORDING,
            thresholds=(Threshold(None, BLUE),),
        ),
        stat(
            "Stalled, gone or failed",
            "Runs whose last state in the chosen time is stalled, gone or failed. 0 is good: each of them has paged "
            "(RunStalled, RunGone, RunFailed).",
            "short",
            Query(_share(RunState.STALLED), "stalled"),
            Query(_share(RunState.GONE), "gone"),
            Query(_share(RunState.FAILED), "failed"),
            empty=NO_RECORDING,
            thresholds=good_below(1),
            width=5,
        ),
        stat(
            "Critical alerts",
            "Alerts that page, by run and rule, firing now. 0 is good.",
            "short",
            Query(_firing(Severity.CRITICAL)),
            empty=NO_RECORDING,
            thresholds=good_below(1),
        ),
        stat(
            "Warnings",
            "Alerts that are tickets, by run and rule, firing now. Few is good.",
            "short",
            Query(_firing(Severity.WARNING)),
            empty=NO_RECORDING,
            thresholds=good_below(1, ORANGE),
        ),
        stat(
            "Processes",
            "Ranks that are scraped now; as many as the scheduler has placed.",
            "short",
            Query("sum(run:rlhf_ranks:count) or 0 * count(last_over_time(run:rlhf_ranks:count[$__range]))"),
            empty=NO_RECORDING,
            thresholds=(Threshold(None, BLUE),),
        ),
        stat(
            "Tokens per second",
            "Prompt and completion tokens of all runs together.",
            "short",
            Query("sum(rlhf_tokens_per_second)"),
            empty="no run reports tokens now",
            thresholds=(Threshold(None, BLUE),),
            width=4,
        ),
        stat(
            "GPU-hours now",
            "Time since the start of this attempt, summed over the ranks of runs that see a GPU: one GPU a rank. Runs on CPUs "
            "alone have none.",
            "short",
            Query(f"sum({_gpu_hours()})"),
            empty="none: no GPU",
            thresholds=(Threshold(None, BLUE),),
            decimals=1,
        ),
    ),
)

RUNS: Final = Section(
    "Runs",
    (
        Panel(
            Kind.TABLE,
            "Runs",
            "Every run of the chosen time with its last known numbers; a click on a run opens its board. Usual speed is "
            "tokens per second over the run's own baseline: 100 % is good, ThroughputRegression fires below 50 %. A run without "
            "GPU-hours sees no GPU.",
            "short",
            (
                Query(f"{_BY_RUN} (last_over_time({_STATE}[$__range]))", "State"),
                Query(
                    f"max by (run_id, board, algorithm, model, team, owner) ({with_board(_INFO)})",
                ),
                Query(
                    f'{_BY_RUN} (last_over_time(rlhf_health_ratio{{aspect="{OVERALL}"}}[$__range]))',
                    "Health",
                    unit="percentunit",
                ),
                Query(f"{_BY_RUN} (last_over_time(rlhf_run_attempt[$__range]))", "Attempt"),
                Query(f"{_BY_RUN} (last_over_time(rlhf_step[$__range]))", "Step"),
                Query(
                    f"{_BY_RUN} (last_over_time(rlhf_step[$__range])) / {_BY_RUN} (last_over_time(rlhf_steps_planned[$__range]))",
                    "Done",
                    unit="percentunit",
                ),
                Query(f"{_BY_RUN} (last_over_time(rlhf_tokens_per_second[$__range]))", "Tokens/s"),
                Query(
                    f'{_BY_RUN} (last_over_time(rlhf_signal_baseline_ratio{{signal="tokens_per_second"}}[$__range]))',
                    "Usual speed",
                    unit="percentunit",
                ),
                Query(
                    'count by (run_id) (max by (run_id, rule) (ALERTS{alertstate="firing", severity=~"critical|warning"}))',
                    "Alerts",
                ),
                Query(_gpu_hours("[$__range]"), "GPU-hours"),
                Query(
                    f"time() - {_BY_RUN} (last_over_time(rlhf_last_progress_timestamp_seconds[$__range]))",
                    "Last step ago",
                    unit="s",
                ),
            ),
            NO_RUN,
            width=24,
            height=9,
            columns=("run_id", "algorithm", "model", "team", "owner", "board"),
            hidden=("board",),
            column_links={"run_id": board_link("${__data.fields.board}", "The run's board")},
            column_mappings={"State": RUN_STATES},
            column_thresholds={
                "Health": SCALE,
                "Alerts": good_below(1, ORANGE),
                "Usual speed": good_above(threshold("ThroughputRegression"), ORANGE),
            },
            sort_by="Last step ago",
            decimals=1,
        ),
        Panel(
            Kind.STATE_TIMELINE,
            "State of each run",
            "Green is good; an end, a stall and a lost process have their colours. A run that was resumed goes on in "
            "the same line.",
            "short",
            (Query(f"{_BY_RUN} ({_STATE})", "{{run_id}}"),),
            NO_RECORDING,
            width=24,
            height=6,
            mappings=RUN_STATES,
        ),
    ),
)

SPEED: Final = Section(
    "Speed and use",
    (
        lines(
            "Tokens per second",
            "Of each run. Level is good; a step down is a slower reward service, GPU or network.",
            "short",
            Query(f"{_BY_RUN} (rlhf_tokens_per_second)", "{{run_id}}"),
            empty="no run reports tokens",
            minimum=0.0,
            axis="tokens/s",
        ),
        lines(
            "Speed against the usual",
            "Tokens per second over the run's own baseline. Around 100 % is good.",
            "percentunit",
            Query(f'{_BY_RUN} (rlhf_signal_baseline_ratio{{signal="tokens_per_second"}})', "{{run_id}}"),
            empty="no run has a baseline yet (it takes 20 generations)",
            minimum=0.0,
            thresholds=(Threshold(None, ORANGE), Threshold(threshold("ThroughputRegression"), "transparent")),
        ),
        lines(
            "Step duration",
            "Of each run, from the end of one step to the end of the next. Level is good.",
            "s",
            Query(f"{_BY_RUN} (rlhf_step_duration_last_seconds)", "{{run_id}}"),
            empty=NO_RUN,
            minimum=0.0,
        ),
        lines(
            "Processes",
            "Ranks that are scraped, by run. Level is good; a dip is a lost process or a failed scrape.",
            "short",
            Query("max by (run_id) (run:rlhf_ranks:count)", "{{run_id}}"),
            empty=NO_RECORDING,
            stacked=True,
            minimum=0.0,
        ),
        lines(
            "Reward",
            "Reward that trains, by run; its scale is the run's own. Rising, then level, is good.",
            "short",
            Query(f"{_BY_RUN} (rlhf_reward_mean)", "{{run_id}}"),
            empty="no run has completions that are rewarded",
        ),
        lines(
            "Fullest GPU",
            "Used memory of the fullest GPU of each run. Full is usual with vLLM, which reserves it; with allocation retries it is "
            "too full.",
            "percentunit",
            Query(f"{_BY_RUN} (rlhf_gpu_memory_used_max_ratio)", "{{run_id}}"),
            empty="no run sees a GPU",
            minimum=0.0,
            maximum=1.0,
            thresholds=(Threshold(None, "transparent"), Threshold(threshold("GPUMemoryNearLimit"), ORANGE)),
        ),
    ),
)

ALERTS: Final = Section(
    "Alerts and anomalies",
    (
        lines(
            "Firing alerts",
            "By severity, over time; each run and rule counts once. Empty is good.",
            "short",
            *(
                Query(
                    f'count(max by (run_id, rule) (ALERTS{{alertstate="firing", severity="{severity}"}}))',
                    severity.value,
                    color=SEVERITY_COLOR[severity],
                )
                for severity in Severity
            ),
            empty="nothing fired: good",
            stacked=True,
            minimum=0.0,
            width=12,
        ),
        Panel(
            Kind.BAR_GAUGE,
            "Anomalies in this time",
            "Anomalies that rules raised in process, by rule. Few is good; many of one kind in many runs are a "
            "threshold or a habit to look at.",
            "short",
            (
                Query(
                    "topk(12, round(sum by (rule) (increase(rlhf_anomaly_total[$__range]))) > 0)", "{{rule}}"
                ),
            ),
            "no anomaly: good",
            width=12,
            thresholds=(Threshold(None, BLUE), Threshold(10, ORANGE)),
            decimals=0,
        ),
        Panel(
            Kind.TABLE,
            "Alerts that fire now",
            "With the runs they are about; a click opens the runbook. Empty is good.",
            "short",
            (Query('max by (severity, rule, run_id, rank) (ALERTS{alertstate="firing"})', "Firing"),),
            "nothing fires: good",
            width=24,
            columns=("severity", "rule", "run_id", "rank"),
            column_links={"rule": RUNBOOK},
            column_mappings={"severity": SEVERITIES},
            sort_by="severity",
        ),
    ),
)

FLEET: Final = Board(
    "rlhf-fleet",
    "RLHF / Fleet",
    "All runs: state, alerts, throughput, GPU-hours.",
    (NOW, RUNS, SPEED, ALERTS),
    Variables.FLEET,
    since="now-6h",
)
