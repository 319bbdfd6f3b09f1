"""The top of every board about a run: is it well, and if not, since when."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from rlhf_otel.catalogue.health import OVERALL
from rlhf_otel.dashboards.panels import (
    BLUE,
    ORANGE,
    RED,
    SCALE,
    good_above,
    good_below,
    metric,
    stat,
    threshold,
)
from rlhf_otel.dashboards.spec import COLUMNS, Kind, Panel, Query, Section, Threshold
from rlhf_otel.dashboards.states import RUN_STATES, RUNBOOK, SEVERITIES, TRACE

NOT_NOW: Final = "the run is not scraped now: it has ended, or see its state"
NO_RECORDING: Final = "not scraped now, or Prometheus lacks alerts/rlhf.recording.yaml"

STATE: Final = stat(
    "State",
    "State of the run now, how often it has been started, and the optimizer steps taken. Running is good; more than one "
    "attempt: it was resumed.",
    "short",
    Query("max(run:rlhf_state:current)", "state"),
    Query("max(rlhf_run_attempt)", "attempt"),
    Query("max(rlhf_step)", "step"),
    empty=NO_RECORDING,
    column_mappings={"state": RUN_STATES},
    thresholds=(Threshold(None, BLUE),),
    decimals=0,
)
PROGRESS: Final = stat(
    "Time since a step",
    "Time since the last finished step, of the rank that is farthest behind, and as a share of the time after which it counts "
    "as stalled. Below 100 % is good; RunStalled pages above.",
    "s",
    Query("max(time() - rlhf_last_progress_timestamp_seconds)", "ago"),
    Query(
        "max((time() - rlhf_last_progress_timestamp_seconds) / rlhf_stall_threshold_seconds)",
        "of the limit",
        unit="percentunit",
    ),
    empty=NOT_NOW,
    thresholds=(Threshold(None, BLUE),),
    column_thresholds={"of the limit": (*good_below(0.5, ORANGE), Threshold(1.0, RED))},
)
HEALTH: Final = stat(
    "Health",
    "Health of the run, 0 to 100 %, which its worst aspect dominates (docs/health.md), and the rules that are in breach in "
    "process now, or were a moment ago. 100 % and 0 are good.",
    "percentunit",
    Query(f'max(rlhf_health_ratio{{aspect="{OVERALL}"}})', "health"),
    Query("count(rlhf_anomaly_active == 1) or 0 * max(rlhf_step)", "anomalies", unit="short"),
    empty=NOT_NOW,
    thresholds=SCALE,
    column_thresholds={"anomalies": good_below(1, ORANGE)},
    decimals=0,
)
SPEED: Final = stat(
    "Tokens per second",
    "Prompt and completion tokens of all ranks, and the same over the run's own baseline: 100 % is good, "
    "ThroughputRegression fires below 50 %.",
    "short",
    Query("max(rlhf_tokens_per_second)", "tokens/s"),
    Query('max(rlhf_signal_baseline_ratio{signal="tokens_per_second"})', "of the usual", unit="percentunit"),
    empty="this trainer reports no tokens",
    thresholds=(Threshold(None, BLUE),),
    decimals=0,
    column_thresholds={"of the usual": good_above(threshold("ThroughputRegression"), ORANGE)},
)
STEP_TIME: Final = stat(
    "Step duration",
    "Duration of the last step, and over its usual one: 100 % is good. This trainer reports no tokens.",
    "s",
    Query("max(rlhf_step_duration_last_seconds)", "last"),
    Query(
        'max(rlhf_step_duration_last_seconds) / max(rlhf_signal_baseline{signal="step_duration"})',
        "of the usual",
        unit="percentunit",
    ),
    empty=NOT_NOW,
    thresholds=(Threshold(None, BLUE),),
)
GPU: Final = stat(
    "GPU memory",
    "Used share of the fullest visible GPU, and how often the allocator had to free its cache and try again in the last 15 "
    "minutes. Full alone is normal with vLLM; full with retries is GPUMemoryNearLimit.",
    "percentunit",
    Query("max(rlhf_gpu_memory_used_max_ratio)", "used"),
    Query("max(rlhf_torch_recent_allocation_retries)", "retries", unit="short"),
    empty="no GPU is visible to this run",
    thresholds=good_below(threshold("GPUMemoryNearLimit"), ORANGE),
    column_thresholds={"retries": good_below(1, ORANGE)},
    decimals=0,
)
CHECKPOINT: Final = stat(
    "Last checkpoint",
    "Age of the last saved checkpoint, and its step. What is newer is lost if the run dies.",
    "s",
    Query("time() - max(rlhf_last_checkpoint_timestamp_seconds)", "ago"),
    Query("max(rlhf_last_checkpoint_step)", "at step", unit="short"),
    empty="no checkpoint has been saved in this attempt",
    thresholds=(Threshold(None, BLUE),),
)

ANOMALIES: Final = Panel(
    Kind.TABLE,
    "Anomalies",
    "Rules that fired in process in this attempt: whether they are still in breach, since which step, with which value and "
    "what was usual. The rule opens its runbook, the trace its step. Empty is good.",
    "short",
    (
        Query("max by (rule, severity) (rlhf_anomaly_active)", "Now"),
        Query("max by (rule) (rlhf_anomaly_first_step)", "First step"),
        Query("max by (rule) (rlhf_anomaly_last_step)", "Last step"),
        Query("max by (rule) (rlhf_anomaly_value)", "Value"),
        Query("max by (rule) (rlhf_anomaly_usual_value)", "Usual value"),
        Query(
            "1000 * max by (rule, trace_id) (rlhf_anomaly_last_timestamp_seconds)",
            "Last",
            unit="dateTimeFromNow",
        ),
    ),
    "nothing fired in this attempt: good; of a run that has ended, choose a time when it went on",
    width=16,
    height=7,
    columns=("severity", "rule", "trace_id"),
    column_links={"rule": RUNBOOK, "trace_id": TRACE},
    column_mappings={"severity": SEVERITIES, "Now": {"0": ("over", BLUE), "1": ("in breach", RED)}},
    sort_by="First step",
)
HISTORY: Final = metric(
    "rlhf_health_ratio",
    "Health by aspect",
    "100 % throughout is good; below 30 % stands what pages.",
    f'min by (aspect) (rlhf_health_ratio{{aspect!="{OVERALL}"}})',
    "{{aspect}}",
    empty=NOT_NOW,
    width=8,
    height=7,
    minimum=0.0,
    maximum=1.0,
)


def top(headline: Panel, distance: Panel | None = None, speed: Panel = SPEED) -> Section:
    """One row of numbers, and the anomalies below. ``headline`` is what the trainer is after; ``distance`` how far the
    policy has gone for it."""
    middle = (headline,) if distance is None else (headline, distance)
    panels = (STATE, PROGRESS, HEALTH, *middle, speed, GPU, CHECKPOINT)
    spare = COLUMNS - 3 * len(panels)
    row = (replace(panel, width=3 + (spare if panel is headline else 0), height=5) for panel in panels)
    return Section("Now", (*row, ANOMALIES, HISTORY))
