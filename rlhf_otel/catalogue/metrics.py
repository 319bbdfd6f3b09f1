"""Metric families: name, type, unit, help and labels of everything that is exposed.

``run_id`` is on every series and added by the exposition; ``rank`` only where a quantity is rank-local.
All label sets are bounded. Signals bring their own gauges (:mod:`rlhf_otel.catalogue.signals`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from rlhf_otel.catalogue.signals import SIGNALS


class MetricType(StrEnum):
    """Prometheus metric types in use."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family. ``name`` is that of its series: ``_total`` for counters, ``_info`` for info."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    unit: str = "1"
    group: str = "run"
    rank_0_alone: bool = False
    """Left out on the other ranks though it is rank-local there: synchronous ranks say the same, and each of
    them stays below 120 series."""


STEP_DURATION_BUCKETS: Final[tuple[float, ...]] = tuple(round(0.05 * 3**k, 2) for k in range(10))
"""0.05 s to 16 min, in threes: a toy step and a step of a 70B run in 13 series a kind, of which a run may have 400."""

MAX_REWARD_FUNCTIONS: Final = 32
"""Reward functions with series of their own; further ones are counted as dropped."""
MAX_WATCHED_REWARDS: Final = 16
"""Rewards that a `RewardModelMonitor` watches, of up to 28 series each; further ones are counted as dropped. With them a
GRPO run stays below 1,000 samples, above which Prometheus would refuse the scrape."""
MAX_TRAINER_METRICS: Final = 50
"""Keys of ``rlhf_trainer_metric``; further ones are counted as dropped."""

_G, _C, _H, _I = MetricType.GAUGE, MetricType.COUNTER, MetricType.HISTOGRAM, MetricType.INFO

RUN: Final = (
    Metric(
        "rlhf_run_info",
        _I,
        "What is running: constant 1, facts as labels.",
        ("run_name", "algorithm", "model", "team", "owner", "cluster", "world_size", "attempt", "trl_version", "rlhf_otel_version", "rank"),
    ),
    Metric("rlhf_step", _G, "Optimizer steps taken."),
    Metric("rlhf_steps_planned", _G, "Optimizer steps that the run is to take."),
    Metric("rlhf_run_attempt", _G, "How often the run has been started, this time included."),
    Metric("rlhf_process_start_time_seconds", _G, "Unix time at which this attempt began.", ("rank",), "seconds"),
    Metric("rlhf_last_progress_timestamp_seconds", _G, "Unix time of the last finished step (at first: of the start).", ("rank",), "seconds"),
    Metric(
        "rlhf_stall_threshold_seconds",
        _G,
        "Time without a finished step after which this rank counts as stalled, now: a multiple of its usual step, never below a floor, and longer by an "
        "evaluation, a checkpoint, the first step and what follows the last one.",
        ("rank",),
        "seconds",
    ),
    Metric("rlhf_stalls_total", _C, "Steps that took longer than that, in this attempt, as the process saw it while they did.", ("rank",)),
    Metric("rlhf_run_end_timestamp_seconds", _G, "Unix time at which the run ended; exists only afterwards.", ("outcome", "rank"), "seconds"),
    Metric("rlhf_tokens_total", _C, "Prompt and completion tokens of all ranks, in this attempt.", unit="tokens"),
    Metric("rlhf_truncated_tokens_total", _C, "Tokens of completions that were cut off, of all ranks, in this attempt.", unit="tokens"),
    Metric("rlhf_steps_total", _C, "Steps finished in this attempt, by kind.", ("kind", "rank")),
    Metric("rlhf_optimizer_steps_skipped_total", _C, "Optimizer steps that mixed-precision scaling skipped.", ("rank",)),
    Metric("rlhf_updates_dropped_total", _C, "Updates that the bad-update guard dropped, since a gradient was not finite. Absent without the guard.", ("rank",)),
    Metric("rlhf_evaluations_total", _C, "Evaluations finished in this attempt."),
    Metric("rlhf_checkpoints_total", _C, "Checkpoints saved in this attempt."),
    Metric("rlhf_last_checkpoint_timestamp_seconds", _G, "Unix time of the last saved checkpoint.", unit="seconds"),
    Metric("rlhf_checkpoint_findings", _G, "Findings about the last checkpoint that was analysed, by kind.", ("finding",)),
    Metric("rlhf_checkpoint_analyses_total", _C, "Analyses of saved checkpoints, by outcome, once there was one: done, failed, or skipped for a newer one.", ("outcome",)),
    Metric("rlhf_last_checkpoint_step", _G, "Step of the last saved checkpoint."),
    Metric("rlhf_last_good_checkpoint_step", _G, "Step of the last checkpoint of this attempt from before the first bad step of every active critical anomaly."),
    Metric("rlhf_last_good_checkpoint_timestamp_seconds", _G, "Unix time at which that checkpoint was saved.", unit="seconds"),
)

TIME: Final = (
    Metric("rlhf_step_duration_seconds", _H, "Duration of steps, from end to end.", ("kind", "rank"), "seconds", "time", rank_0_alone=True),
    Metric(
        "rlhf_phase_seconds_total",
        _C,
        "Wall time of each phase without the phases inside it; the phases of a run sum to its wall time. "
        "Includes the elapsed part of the open phase. On a GPU, host clocks charge asynchronous work to the next phase that waits for it.",
        ("phase", "scope", "rank"),
        "seconds",
        "time",
    ),
    Metric("rlhf_open_phase_seconds", _G, "Time since the training thread entered the phase that it is in now; one series a rank, absent after the end.", ("phase", "rank"), "seconds", "time"),
    Metric(
        "rlhf_phase_device_seconds_total",
        _C,
        "Time that phases took on the GPU, by CUDA events, of those whose work the host only queues; loss holds forward. Absent without a GPU.",
        ("phase", "rank"),
        "seconds",
        "time",
    ),
    Metric(
        "rlhf_wasted_seconds_total",
        _C,
        "Wall time in vain, by reason, once it has happened: rollouts of groups without a gradient, updates that were lost, stalls beyond the usual "
        "step, and what an earlier attempt did after the checkpoint that was gone on from.",
        ("reason",),
        "seconds",
        "time",
    ),
    Metric("rlhf_kept_steps_total", _C, "Steps kept as traces, by reason, once there was one; without the first of the process, and those before an anomaly.", ("reason",), group="time"),
    Metric("rlhf_reward_function_seconds_total", _C, "Wall time of each reward function; asynchronous ones overlap.", ("reward_function", "rank"), "seconds", "time"),
)

REWARD: Final = (
    Metric("rlhf_reward_function_mean", _G, "Mean of a reward function over the completions that it scored.", ("reward_function",), group="reward"),
    Metric("rlhf_reward_function_std", _G, "Standard deviation of a reward function over the completions that it scored.", ("reward_function",), group="reward"),
    Metric("rlhf_reward_function_none_total", _C, "Completions for which a reward function returned None; absent until one did.", ("reward_function", "rank"), group="reward", rank_0_alone=True),
    Metric("rlhf_reward_function_nonfinite_total", _C, "NaN or infinite rewards that a reward function returned.", ("reward_function", "rank"), group="reward"),
    Metric("rlhf_reward_function_errors_total", _C, "Calls of a reward function that raised; absent until one did.", ("reward_function", "rank"), group="reward"),
)

_R = ("reward_function",)
REWARD_MODEL: Final = (
    Metric("rlhf_reward_model_mean", _G, "Mean score of a watched reward over its window of the last scores. This and what follows is there with a RewardModelMonitor (docs/reward-models.md).", _R, group="reward model"),
    Metric("rlhf_reward_model_std", _G, "Standard deviation of those scores.", _R, group="reward model"),
    Metric("rlhf_reward_model_stability_ratio", _G, "1 less the share of the scores' variance that is jumps of their level; 0 of a constant.", _R, "ratio", "reward model"),
    Metric("rlhf_reward_model_consistency_ratio", _G, "Test-retest reliability: intraclass correlation of completions that were scored twice.", _R, "ratio", "reward model"),
    Metric("rlhf_reward_model_drift", _G, "Distance of the scores from those of the reference window, by measure.", (*_R, "measure"), group="reward model"),
    Metric("rlhf_reward_model_drift_significance", _G, "Probability of such a distance by chance (p).", (*_R, "measure"), group="reward model"),
    Metric("rlhf_reward_model_saturated_ratio", _G, "Share of scores within 1 % of an end of the range observed since the start.", (*_R, "end"), "ratio", "reward model"),
    Metric("rlhf_reward_model_shortcut_correlation", _G, "Rank correlation of the score with a simple property of the completion.", (*_R, "shortcut"), group="reward model"),
    Metric("rlhf_reward_model_lowest_agreement", _G, "Lowest rank correlation with another watched reward over the last batch that both scored.", _R, group="reward model"),
    Metric("rlhf_reward_model_pairs_accuracy_ratio", _G, "Share of labelled pairs whose chosen completion has the higher score.", _R, "ratio", "reward model"),
    Metric("rlhf_reward_model_pairs_brier", _G, "Brier score on labelled pairs, 0 to 1; 0.25 is that of a coin.", _R, group="reward model"),
    Metric("rlhf_reward_model_calibration_error_ratio", _G, "Expected calibration error on labelled pairs.", _R, "ratio", "reward model"),
    Metric("rlhf_reward_model_margin", _G, "Quartiles of the score of the chosen less that of the rejected completion, over labelled pairs.", (*_R, "quartile"), group="reward model"),
    Metric("rlhf_reward_model_none_ratio", _G, "Share of scores that were None, since the start.", _R, "ratio", "reward model"),
    Metric("rlhf_reward_model_calls_total", _C, "Calls of a watched reward.", _R, group="reward model"),
    Metric("rlhf_reward_model_call_errors_total", _C, "Calls that raised, timeouts among them.", _R, group="reward model"),
    Metric("rlhf_reward_model_call_timeouts_total", _C, "Calls that timed out.", _R, group="reward model"),
    Metric("rlhf_reward_model_call_seconds_total", _C, "Time in calls that returned.", _R, "seconds", "reward model"),
    Metric("rlhf_reward_model_call_slowest_seconds", _G, "Longest call so far.", _R, "seconds", "reward model"),
)

DETECTION: Final = (
    Metric("rlhf_health_ratio", _G, "Health by aspect, 0 to 1, and of all together (overall), where the worst dominates; absent while unknown (docs/health.md).", ("aspect",), "ratio", "detection"),
    Metric("rlhf_health_coverage_ratio", _G, "Share of the rules behind the overall health that could be judged.", (), "ratio", "detection"),
    Metric("rlhf_signal_nonfinite_total", _C, "NaN or infinite values of a signal in this process, seen where they arise.", ("signal", "rank"), group="detection"),
    Metric("rlhf_signal_average", _G, "Fast exponential average of a signal (about the last 10 steps). This and other statistics are exposed where a rule compares them.", ("signal",), group="detection"),
    Metric("rlhf_signal_zscore", _G, "Robust distance of the last value from the signal's baseline, in units of its usual deviation.", ("signal",), group="detection"),
    Metric("rlhf_signal_baseline", _G, "Slow average of a signal, which anomalies do not enter; exposed where a rule compares something with it.", ("signal",), group="detection"),
    Metric("rlhf_signal_baseline_ratio", _G, "Fast average over baseline.", ("signal",), "ratio", "detection"),
    Metric("rlhf_signal_shift", _G, "Distance of the fast average from the baseline, in units of the usual deviation.", ("signal",), group="detection"),
    Metric("rlhf_signal_reference_ratio", _G, "Fast average over the mean of the warm-up.", ("signal",), "ratio", "detection"),
    Metric("rlhf_signal_cusum", _G, "Accumulated deviation of a signal from its own trend, in units of its noise; negative for downwards.", ("signal",), group="detection"),
    Metric("rlhf_anomaly_active", _G, "1 while a rule is in breach in process, latched after it; else 0. Absent until the rule has fired once.", ("rule", "severity"), group="detection"),
    Metric("rlhf_anomaly_total", _C, "Anomalies that a rule has raised in this process.", ("rule", "severity"), group="detection"),
    Metric("rlhf_rule_breach_steps", _G, "Steps in a row that a level rule has been in breach and nothing has explained it away; absent while it is not.", ("rule",), group="detection"),
    Metric("rlhf_anomaly_first_step", _G, "Step at which a rule's latest anomaly began.", ("rule",), group="detection"),
    Metric("rlhf_anomaly_first_timestamp_seconds", _G, "Unix time of that step.", ("rule",), "seconds", "detection"),
    Metric("rlhf_anomaly_last_step", _G, "Last step in breach of a rule.", ("rule",), group="detection"),
    Metric("rlhf_anomaly_last_timestamp_seconds", _G, "Unix time of the last step in breach; the trace id changes at most once a minute.", ("rule", "trace_id"), "seconds", "detection"),
    Metric("rlhf_anomaly_value", _G, "Value that put the rule in breach, in its signal's unit.", ("rule", "signal"), group="detection"),
    Metric("rlhf_actions_total", _C, "Actions that followed an anomaly, by what was done and how it turned out.", ("action", "outcome"), group="detection"),
    Metric("rlhf_anomaly_usual_value", _G, "Baseline of that signal when the anomaly began.", ("rule", "signal"), group="detection"),
)

OTHER: Final = (
    Metric("rlhf_evaluation_signal", _G, "Last value of a signal that has a baseline in evaluation; never part of that baseline.", ("signal",), group="evaluation"),
    Metric("rlhf_trainer_metric", _G, "A number that the trainer logs under a key which the catalogue does not know.", ("key",), group="trainer"),
    Metric("rlhf_dropped_series_total", _C, "Series left out because a label reached its cap.", ("label",), group="trainer"),
)

GPU: Final = (
    Metric("rlhf_gpu_memory_used_bytes", _G, "Used GPU memory, of all processes.", ("device", "rank"), "bytes", "gpu"),
    Metric("rlhf_gpu_memory_total_bytes", _G, "GPU memory.", ("device", "rank"), "bytes", "gpu"),
    Metric("rlhf_gpu_utilization_ratio", _G, "Share of time in which a kernel ran.", ("device", "rank"), "ratio", "gpu"),
    Metric("rlhf_gpu_temperature_celsius", _G, "GPU temperature.", ("device", "rank"), "celsius", "gpu"),
    Metric("rlhf_gpu_power_watts", _G, "GPU power draw.", ("device", "rank"), "watts", "gpu"),
    Metric("rlhf_gpu_sm_clock_hertz", _G, "Clock of the streaming multiprocessors.", ("device", "rank"), "hertz", "gpu"),
    Metric("rlhf_gpu_memory_clock_hertz", _G, "Memory clock.", ("device", "rank"), "hertz", "gpu"),
    Metric("rlhf_gpu_throttled", _G, "1 while the GPU slows itself down for this reason, else 0.", ("device", "reason", "rank"), group="gpu"),
    Metric("rlhf_gpu_ecc_uncorrected_total", _C, "Uncorrected ECC memory errors since the driver was loaded.", ("device", "rank"), group="gpu"),
    Metric("rlhf_gpu_xid_total", _C, "Critical XID errors that the driver reported since the start.", ("device", "rank"), group="gpu"),
)

TORCH: Final = (
    Metric("rlhf_torch_memory_allocated_bytes", _G, "Memory in live tensors, by torch's CUDA caching allocator.", ("device", "rank"), "bytes", "torch"),
    Metric("rlhf_torch_memory_reserved_bytes", _G, "Memory that the allocator holds.", ("device", "rank"), "bytes", "torch"),
    Metric("rlhf_torch_memory_allocated_peak_bytes", _G, "Highest allocated memory since the start of the process.", ("device", "rank"), "bytes", "torch"),
    Metric("rlhf_torch_memory_fragmentation_ratio", _G, "Reserved memory that no tensor uses, as a share of the reserved.", ("device", "rank"), "ratio", "torch"),
    Metric("rlhf_torch_allocation_retries_total", _C, "Allocations that succeeded only after the cache had been freed.", ("device", "rank"), group="torch"),
    Metric("rlhf_torch_ooms_total", _C, "Out-of-memory errors.", ("device", "rank"), group="torch"),
)

HOST: Final = (
    Metric("rlhf_process_resident_memory_bytes", _G, "Resident memory of this process.", ("rank",), "bytes", "host"),
    Metric("rlhf_process_cpu_seconds_total", _C, "User and system CPU time of this process.", ("rank",), "seconds", "host"),
    Metric("rlhf_process_threads", _G, "Threads of this process.", ("rank",), group="host"),
    Metric("rlhf_process_open_fds", _G, "Open file descriptors of this process.", ("rank",), group="host"),
    Metric("rlhf_host_memory_available_bytes", _G, "Memory still available on this host, or in its cgroup.", ("rank",), "bytes", "host"),
    Metric("rlhf_host_memory_total_bytes", _G, "Memory of this host, or of its cgroup.", ("rank",), "bytes", "host"),
    Metric("rlhf_host_cpu_utilization_ratio", _G, "Share of this host's CPU time in use.", ("rank",), "ratio", "host"),
)

TELEMETRY: Final = (
    Metric("rlhf_telemetry_seconds_total", _C, "Time that telemetry took on the training thread.", ("rank",), "seconds", "telemetry"),
    Metric("rlhf_telemetry_faults_total", _C, "Telemetry faults, by place; training went on.", ("place", "rank"), group="telemetry"),
    Metric("rlhf_telemetry_queue_records", _G, "Records that wait for the background thread.", ("rank",), group="telemetry"),
    Metric("rlhf_telemetry_dropped_total", _C, "Records and spans lost, by what lost them.", ("exporter", "rank"), group="telemetry"),
    Metric("rlhf_telemetry_journal_bytes_total", _C, "Bytes written to the journal.", ("rank",), "bytes", "telemetry"),
    Metric("rlhf_telemetry_spans_exported_total", _C, "Spans that an OTLP endpoint accepted.", ("rank",), group="telemetry"),
    Metric("rlhf_telemetry_scrapes_total", _C, "Scrapes answered.", ("rank",), group="telemetry"),
    Metric("rlhf_telemetry_scrape_seconds_total", _C, "Time spent answering scrapes.", ("rank",), "seconds", "telemetry"),
)

SIGNAL_METRICS: Final = tuple(
    Metric(signal.metric, _G, signal.help, (), signal.unit, "signal") for signal in SIGNALS
)

METRICS: Final[tuple[Metric, ...]] = (
    *RUN, *SIGNAL_METRICS, *REWARD, *REWARD_MODEL, *TIME, *DETECTION, *OTHER, *GPU, *TORCH, *HOST, *TELEMETRY,
)  # fmt: skip

METRIC_BY_NAME: Final[dict[str, Metric]] = {metric.name: metric for metric in METRICS}
