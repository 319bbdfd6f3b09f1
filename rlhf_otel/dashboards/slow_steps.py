"""Where the time of steps goes, and which rank or reward function takes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from rlhf_otel.catalogue.metrics import METRIC_BY_NAME
from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.catalogue.spans import ROLLOUT, Waste
from rlhf_otel.dashboards import learning
from rlhf_otel.dashboards.panels import BLUE, ORANGE, good_below, lines, metric, stat
from rlhf_otel.dashboards.run_top import NO_RECORDING, NOT_NOW
from rlhf_otel.dashboards.spec import Board, Kind, Panel, Query, Section, Threshold

_BLUE: Final = (Threshold(None, BLUE),)
YOUNG: Final = "the run is younger than some scrapes, or has no such phase"


def _quantile(q: float) -> str:
    return f"histogram_quantile({q}, sum by (kind, le) (rate(rlhf_step_duration_seconds_bucket[$__rate_interval])))"


def _phase_share(*phases: str) -> str:
    return f'sum(run_phase:rlhf_phase_seconds:avg_rate{{phase=~"{"|".join(phases)}"}})'


NOW: Final = Section(
    "Now",
    (
        stat(
            "Last step",
            "Duration of the last step, and over its usual one.",
            "s",
            Query("max(rlhf_step_duration_last_seconds)", "last step"),
            Query(
                'max(rlhf_step_duration_last_seconds) / max(rlhf_signal_baseline{signal="step_duration"})',
                "of the usual",
                unit="percentunit",
            ),
            empty=NOT_NOW,
            thresholds=_BLUE,
            column_thresholds={"of the usual": good_below(3.0, ORANGE)},
            width=4,
        ),
        stat(
            "Generation",
            "Share of wall time in sampling completions. Half and more is usual.",
            "percentunit",
            Query(_phase_share("generate", "rollout")),
            empty=NO_RECORDING,
            thresholds=_BLUE,
            width=4,
            decimals=0,
        ),
        stat(
            "Rewards",
            "Share of wall time in reward functions. Small is good: it is time in which no GPU trains.",
            "percentunit",
            Query(_phase_share("reward", "reward_function")),
            empty=NO_RECORDING,
            thresholds=good_below(0.3, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Training",
            "Share of wall time in forward, loss, backward and optimizer.",
            "percentunit",
            Query(_phase_share("forward", "loss", "backward", "optimizer", "update")),
            empty=NO_RECORDING,
            thresholds=_BLUE,
            width=4,
            decimals=0,
        ),
        stat(
            "Unexplained",
            "Share of wall time in no phase that is timed. Small is good.",
            "percentunit",
            Query(_phase_share("other")),
            empty=NO_RECORDING,
            thresholds=good_below(0.2, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Without gradient",
            "Share of groups of completions that carry no gradient, on average of late: time in which nothing is learned.",
            "percentunit",
            Query("max(rlhf_zero_advantage_groups_ratio)"),
            empty="this trainer has no groups",
            thresholds=good_below(0.7, ORANGE),
            width=4,
            decimals=0,
        ),
    ),
)
DURATIONS: Final = Section(
    "Durations",
    (
        lines(
            "Step duration",
            "Median and 99th percentile, by kind of step: those that generate and those that reuse completions. Dots are steps whose "
            "trace was kept: a click opens it. A level, narrow band is good.",
            "s",
            Query(_quantile(0.5), "{{kind}} p50", exemplar=True),
            Query(_quantile(0.99), "{{kind}} p99"),
            empty="no step has ended yet",
            minimum=0.0,
            width=12,
            height=8,
        ),
        Panel(
            Kind.HEATMAP,
            "Step durations",
            "Steps by duration over time; the brighter, the more steps. One or two narrow bands are good.",
            "s",
            (Query("sum by (le) (increase(rlhf_step_duration_seconds_bucket[$__rate_interval]))", "{{le}}"),),
            "no step has ended yet",
            width=12,
            height=8,
            points=120,
        ),
    ),
)
PHASES: Final = Section(
    "Phases",
    (
        replace(learning.PHASES, width=16, height=9),
        Panel(
            Kind.BAR_GAUGE,
            "Phases in the chosen time",
            "Share of wall time in each phase, mean over ranks and over the time in which the run was scraped; the largest first. "
            "Generation, forward and backward on top is good.",
            "percentunit",
            (
                Query(
                    "sort_desc(max by (phase) (avg_over_time(run_phase:rlhf_phase_seconds:avg_rate[$__range])))",
                    "{{phase}}",
                ),
            ),
            NO_RECORDING,
            width=8,
            height=9,
        ),
        learning.FUNCTION_TIME,
        learning.SLOWEST_CALL,
        metric(
            "rlhf_training_step_seconds",
            "TRL's step time",
            "Near the step duration is good; far below it, evaluation, checkpoints, data or telemetry take the rest.",
            "max(rlhf_training_step_seconds)",
            "step time",
            empty="this trainer does not log it",
            minimum=0.0,
        ),
    ),
)
KEPT: Final = Section(
    "Kept steps and stalls",
    (
        Panel(
            Kind.BAR_GAUGE,
            "Steps kept as traces",
            METRIC_BY_NAME["rlhf_kept_steps_total"].help
            + " Few that were slow, anomalous or failed are good; "
            "one_in_k are healthy ones.",
            "short",
            (
                Query(
                    "sort_desc(max by (reason) (max_over_time(rlhf_kept_steps_total[$__range])))",
                    "{{reason}}",
                ),
            ),
            "no step was kept but the first",
            width=12,
            height=8,
        ),
        metric(
            "rlhf_stalls_total",
            "Stalls",
            "0 is good; the stacks are at /stacks of that rank, and in its file.",
            "max by (rank) (increase(rlhf_stalls_total[$__rate_interval]))",
            "rank {{rank}}",
            empty="no rank was scraped",
            minimum=0.0,
            width=12,
        ),
    ),
)
RANKS: Final = Section(
    "Ranks",
    (
        Panel(
            Kind.HEATMAP,
            "Local time of each rank",
            "Share of wall time that each rank spends in phases which wait for nobody: all alike is good; one bright line is the straggler that all others wait for. "
            "Synchronous ranks tie in step time, so that only this tells.",
            "percentunit",
            (Query("max by (rank) (run_rank:rlhf_local_phase_seconds:rate)", "{{rank}}"),),
            NO_RECORDING,
            width=12,
            height=9,
            points=120,
        ),
        lines(
            "Behind the median rank",
            "Local seconds in a second of wall time above the median rank. Straggler fires above 0.1 after 5 minutes; 0 is good.",
            "s",
            Query(
                "topk(5, max by (rank) (run_rank:rlhf_local_phase_seconds:rate)) - on () group_left () quantile(0.5, max by (rank) (run_rank:rlhf_local_phase_seconds:rate))",
                "rank {{rank}}",
            ),
            empty=NO_RECORDING,
            width=12,
            height=9,
            points=120,
            thresholds=(Threshold(None, "transparent"), Threshold(0.1, ORANGE)),
        ),
        Panel(
            Kind.TABLE,
            "Slowest rank by phase",
            "For each local phase the rank that spends most in it, and how much more than the median rank. Near 0 is good.",
            "s",
            (
                Query(
                    'topk by (phase) (1, sum by (phase, rank) (rate(rlhf_phase_seconds_total{scope="local"}[$__rate_interval])))',
                    "Seconds a second",
                ),
                Query(
                    'topk by (phase) (1, sum by (phase, rank) (rate(rlhf_phase_seconds_total{scope="local"}[$__rate_interval])) - on (phase) group_left () '
                    'quantile by (phase) (0.5, sum by (phase, rank) (rate(rlhf_phase_seconds_total{scope="local"}[$__rate_interval]))))',
                    "Above the median",
                ),
            ),
            YOUNG,
            width=24,
            height=8,
            columns=("phase", "rank"),
            sort_by="Above the median",
            decimals=3,
            column_thresholds={"Above the median": good_below(0.1, ORANGE)},
        ),
    ),
)
_ROLLOUT: Final = "|".join(sorted(ROLLOUT))
NOTHING: Final = "nothing was in vain so far"
WASTE: Final = Section(
    "Ledger and waste",
    (
        stat(
            "Rollouts without gradient",
            "Share of the time of rollouts, in the chosen time, that went into groups without a gradient. Small is good.",
            "percentunit",
            Query(
                f'sum(increase(rlhf_wasted_seconds_total{{reason="{Waste.NO_GRADIENT}"}}[$__range])) '
                f'/ sum(increase(rlhf_phase_seconds_total{{rank="0", phase=~"{_ROLLOUT}"}}[$__range]))'
            ),
            empty=NOTHING,
            thresholds=good_below(0.5, ORANGE),
            width=4,
            height=8,
            decimals=0,
        ),
        stat(
            "GPU-hours in vain",
            "Time in vain, of the attempt so far, times the GPUs that waited: one a rank. Small is good.",
            "short",
            Query(
                "sum(max_over_time(rlhf_wasted_seconds_total[$__range])) * count(count by (rank) (rlhf_torch_memory_allocated_bytes)) / 3600"
            ),
            empty=f"no GPU, or {NOTHING}",
            thresholds=_BLUE,
            width=4,
            height=8,
            decimals=1,
        ),
        Panel(
            Kind.BAR_GAUGE,
            "In vain, by reason",
            METRIC_BY_NAME["rlhf_wasted_seconds_total"].help + " None is good.",
            "s",
            (
                Query(
                    "sort_desc(max by (reason) (max_over_time(rlhf_wasted_seconds_total[$__range])))",
                    "{{reason}}",
                ),
            ),
            NOTHING,
            width=8,
            height=8,
        ),
        lines(
            "Tokens of completions that were cut off",
            "Share of all tokens, prompts among them. Small is good: what is cut off has no end to be rewarded for.",
            "percentunit",
            Query(
                "sum(rate(rlhf_truncated_tokens_total[$__rate_interval])) / sum(rate(rlhf_tokens_total[$__rate_interval]))",
                "cut off",
            ),
            empty="no completion was cut off, or samples are off",
            minimum=0.0,
            width=8,
            height=8,
        ),
    ),
)
SLOW_STEPS: Final = Board(
    "rlhf-slow-steps",
    "RLHF / Slow steps",
    f"Where the time of steps goes. {RULE_BY_NAME['SlowStep'].cause}",
    (NOW, DURATIONS, PHASES, WASTE, KEPT, RANKS),
)
