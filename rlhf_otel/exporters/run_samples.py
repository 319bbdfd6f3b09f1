"""Samples of each family, read from a run view: one function a family.

Which families exist, with type, help and labels, is the catalogue's business; ``exposition`` encodes what these yield.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from rlhf_otel import __version__, faults
from rlhf_otel.catalogue.health import OVERALL
from rlhf_otel.catalogue.rules import RuleClass, Severity, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME, SIGNALS
from rlhf_otel.catalogue.spans import PHASES
from rlhf_otel.exporters import reward_families
from rlhf_otel.exporters.sampling import Reason
from rlhf_otel.records import RunView


class Sample(NamedTuple):
    """One sample: values of the family's own labels (without ``run_id`` and ``rank``) and its value."""

    labels: tuple[str, ...]
    value: Any
    exemplar: tuple[str, float, float] | None = None
    """Trace id, value and Unix time."""


Samples = Iterable[Sample]
SampleFunction = Callable[[RunView], Samples]


SAMPLES: Final[dict[str, SampleFunction]] = {}


def _samples(name: str) -> Callable[[SampleFunction], SampleFunction]:
    def register(function: SampleFunction) -> SampleFunction:
        SAMPLES[name] = function
        return function

    return register


def _one(value: float | None) -> Samples:
    return () if value is None else (Sample((), value),)


def _each(values: Mapping[str, Any]) -> Samples:
    return (Sample((key,), value) for key, value in values.items())


def _scalar(name: str, read: Callable[[RunView], float | None]) -> None:
    SAMPLES[name] = lambda view: _one(read(view))


def _by_label(name: str, read: Callable[[RunView], Mapping[str, Any]]) -> None:
    SAMPLES[name] = lambda view: _each(read(view))


# --- the run


@_samples("rlhf_run_info")
def _run_info(view: RunView) -> Samples:
    run = view.identity
    facts = {
        "run_name": run.run_name,
        "algorithm": run.algorithm,
        "model": run.model,
        "team": run.team,
        "owner": run.owner,
        "cluster": run.cluster,
        "world_size": str(run.world_size),
        "attempt": str(run.attempt),
        "trl_version": view.trl_version,
        "rlhf_otel_version": __version__,
        "rank": str(run.rank),
    }
    yield Sample((), facts)


_scalar("rlhf_step", lambda v: v.snapshot.step)
_scalar("rlhf_steps_planned", lambda v: v.snapshot.planned_steps or None)
_scalar("rlhf_run_attempt", lambda v: v.identity.attempt)
_scalar("rlhf_process_start_time_seconds", lambda v: v.snapshot.started_s)
_scalar("rlhf_last_progress_timestamp_seconds", lambda v: v.snapshot.time_s)
_scalar("rlhf_stall_threshold_seconds", lambda v: v.stall_threshold_s)
_scalar("rlhf_stalls_total", lambda v: v.stalls)
_scalar("rlhf_tokens_total", lambda v: v.snapshot.tokens)
_scalar("rlhf_truncated_tokens_total", lambda v: v.snapshot.truncated_tokens or None)
_by_label("rlhf_steps_total", lambda v: {kind: sum(h.counts) for kind, h in v.snapshot.durations.items()})
_scalar("rlhf_optimizer_steps_skipped_total", lambda v: v.snapshot.skipped_steps)
_scalar("rlhf_updates_dropped_total", lambda v: v.updates_dropped)
_scalar("rlhf_evaluations_total", lambda v: v.snapshot.evaluations)
_scalar("rlhf_checkpoints_total", lambda v: v.snapshot.checkpoints)
_by_label("rlhf_checkpoint_findings", lambda v: v.checkpoint.counts if v.checkpoint is not None else {})
_by_label("rlhf_checkpoint_analyses_total", lambda v: _happened(v.checkpoint_analyses))
_scalar("rlhf_last_checkpoint_step", lambda v: v.snapshot.last_checkpoint and v.snapshot.last_checkpoint[0])
_scalar(
    "rlhf_last_checkpoint_timestamp_seconds",
    lambda v: v.snapshot.last_checkpoint and v.snapshot.last_checkpoint[1],
)


def _good_checkpoint(view: RunView) -> tuple[int, float] | None:
    """Step and time of the last checkpoint that no active critical anomaly is older than."""
    critical = (v for v in view.snapshot.verdicts if v.active and v.rule.severity is Severity.CRITICAL)
    first_bad = min((verdict.first_step for verdict in critical), default=math.inf)
    return next((saved for saved in reversed(view.snapshot.saved) if saved[0] < first_bad), None)


_scalar("rlhf_last_good_checkpoint_step", lambda v: (good := _good_checkpoint(v)) and good[0])
_scalar("rlhf_last_good_checkpoint_timestamp_seconds", lambda v: (good := _good_checkpoint(v)) and good[1])
_by_label("rlhf_run_end_timestamp_seconds", lambda v: {v.end.outcome: v.end.time_ns / 1e9} if v.end else {})

# --- signals


def _signal_value(name: str) -> Callable[[RunView], float | None]:
    return lambda view: view.snapshot.values.get(name)


for _signal in SIGNALS:
    _scalar(_signal.metric, _signal_value(_signal.name))


def _statistic(which: Statistic, field: str) -> None:
    def read(view: RunView) -> dict[str, float]:
        snapshot = view.snapshot
        found = {
            signal: getattr(known, field)
            for signal, known in snapshot.statistics.items()
            if (signal, which.value) in snapshot.compared
        }
        return {signal: value for signal, value in found.items() if value is not None}

    _by_label(f"rlhf_signal_{which}", read)


def _evaluation(view: RunView) -> dict[str, float]:
    values = view.snapshot.evaluation
    return {signal: value for signal, value in values.items() if SIGNAL_BY_NAME[signal].baseline}


_statistic(Statistic.AVERAGE, "average")
_statistic(Statistic.BASELINE, "baseline")
_statistic(Statistic.ZSCORE, "zscore")
_statistic(Statistic.RATIO, "ratio")
_statistic(Statistic.SHIFT, "shift")
_statistic(Statistic.REFERENCE_RATIO, "reference_ratio")
_statistic(Statistic.CUSUM, "cusum")
_by_label("rlhf_signal_nonfinite_total", lambda v: v.snapshot.nonfinite)
_by_label("rlhf_evaluation_signal", _evaluation)


def _dropped_series(view: RunView) -> dict[str, int]:
    dropped = dict(view.snapshot.dropped)
    if view.rewards_dropped:
        dropped["watched_reward"] = view.rewards_dropped
    return dropped


_by_label("rlhf_trainer_metric", lambda v: v.snapshot.unmapped)
_by_label("rlhf_dropped_series_total", lambda v: _dropped_series(v))

# --- reward functions


def _happened(counts: Mapping[str, int]) -> dict[str, int]:
    """Without the zeros, which would cost series and whose first increment matters to no rate."""
    return {name: count for name, count in counts.items() if count}


_by_label(
    "rlhf_reward_function_mean", lambda v: {k: mean for k, (mean, _) in v.snapshot.reward_functions.items()}
)
_by_label(
    "rlhf_reward_function_std", lambda v: {k: std for k, (_, std) in v.snapshot.reward_functions.items()}
)
_by_label("rlhf_reward_function_none_total", lambda v: _happened(v.function_none))
_by_label("rlhf_reward_function_nonfinite_total", lambda v: v.function_nonfinite)
_by_label("rlhf_reward_function_errors_total", lambda v: _happened(v.function_errors))
_by_label("rlhf_reward_function_seconds_total", lambda v: v.function_seconds)

# --- watched rewards


def _of_rewards(name: str, read: Callable[[RunView], Iterator[tuple[tuple[str, ...], float]]]) -> None:
    SAMPLES[name] = lambda view: (Sample(labels, value) for labels, value in read(view))


for _name, _read in reward_families.FAMILIES.items():
    _of_rewards(_name, _read)

# --- time

_by_label("rlhf_step_duration_seconds", lambda v: v.snapshot.durations)


def _by_phase(name: str, read: Callable[[RunView], Mapping[str, float]]) -> None:
    def samples(view: RunView) -> Samples:
        values, algorithm, waiting = read(view), view.identity.algorithm, view.identity.collective_phases
        phases = (phase for phase in PHASES if phase.algorithm in ("", algorithm) and phase.name in values)
        return (Sample((phase.name, phase.scope_in(waiting)), values[phase.name]) for phase in phases)

    SAMPLES[name] = samples


_by_phase("rlhf_phase_seconds_total", lambda v: v.phase_seconds)


@_samples("rlhf_open_phase_seconds")
def _open_phase(view: RunView) -> Samples:
    if view.open_phase is not None:
        yield Sample((view.open_phase.phase,), view.open_phase.seconds)


_by_label("rlhf_phase_device_seconds_total", lambda v: v.device_seconds)
_by_label("rlhf_wasted_seconds_total", lambda v: v.snapshot.wasted)
_by_label("rlhf_kept_steps_total", lambda v: _kept(v.telemetry.kept_steps))


def _kept(steps: Mapping[str, int]) -> dict[str, int]:
    """Without what other series say: there is one first step, and there are three before each anomaly."""
    told = {Reason.FIRST, Reason.BEFORE_ANOMALY}
    return {reason: count for reason, count in _happened(steps).items() if reason not in told}


# --- verdicts


def _health(view: RunView) -> dict[str, float]:
    health = view.snapshot.health
    return {**health.aspects, OVERALL: health.overall} if health.overall is not None else {}


_by_label("rlhf_health_ratio", _health)
_scalar("rlhf_health_coverage_ratio", lambda v: v.snapshot.health.coverage if _health(v) else None)


def _by_rule(name: str, read: Callable[[RunView, Any], float | None]) -> None:
    """A sample per rule for which ``read`` has a value; its one label is the rule's name."""

    def samples(view: RunView) -> Samples:
        for verdict in view.snapshot.verdicts:
            value = read(view, verdict)
            if value is not None:
                yield Sample((verdict.rule.name,), value)

    SAMPLES[name] = samples


def _fired(read: Callable[[Any], float | None]) -> Callable[[RunView, Any], float | None]:
    return lambda view, verdict: read(verdict) if verdict.total else None


_by_rule("rlhf_anomaly_first_step", _fired(lambda verdict: verdict.first_step))
_by_rule("rlhf_anomaly_first_timestamp_seconds", _fired(lambda verdict: verdict.first_time_ns / 1e9))
_by_rule("rlhf_anomaly_last_step", _fired(lambda verdict: verdict.last_step))


@_samples("rlhf_rule_breach_steps")
def _rule_breach_steps(view: RunView) -> Samples:
    streaks = view.snapshot.streaks
    for verdict in view.snapshot.verdicts if streaks else ():
        if verdict.rule.rule_class is RuleClass.LEVEL and verdict.rule.name in streaks:
            yield Sample((verdict.rule.name,), streaks[verdict.rule.name])


@_samples("rlhf_anomaly_active")
def _anomaly_active(view: RunView) -> Samples:
    verdicts = view.snapshot.verdicts
    return (Sample((v.rule.name, v.rule.severity), int(v.active)) for v in verdicts if v.total)


@_samples("rlhf_anomaly_total")
def _anomaly_total(view: RunView) -> Samples:
    for verdict in view.snapshot.verdicts:
        trace = view.snapshot.anomaly_traces.get(verdict.rule.name)
        exemplar = (trace, 1.0, verdict.last_time_ns / 1e9) if trace else None
        yield Sample((verdict.rule.name, verdict.rule.severity), verdict.total, exemplar)


@_samples("rlhf_anomaly_last_timestamp_seconds")
def _anomaly_last_timestamp(view: RunView) -> Samples:
    for verdict in view.snapshot.verdicts:
        if verdict.total:
            trace = view.snapshot.anomaly_traces.get(verdict.rule.name, "")
            yield Sample((verdict.rule.name, trace), verdict.last_time_ns / 1e9)


@_samples("rlhf_anomaly_value")
def _anomaly_value(view: RunView) -> Samples:
    return (Sample((v.rule.name, v.signal), v.value) for v in view.snapshot.verdicts if v.value is not None)


@_samples("rlhf_anomaly_usual_value")
def _anomaly_usual_value(view: RunView) -> Samples:
    return (Sample((v.rule.name, v.signal), v.usual) for v in view.snapshot.verdicts if v.usual is not None)


@_samples("rlhf_actions_total")
def _actions(view: RunView) -> Samples:
    return (Sample(key, count) for key, count in view.actions.items())


# --- devices and host


def _by_device(name: str, devices: str, field: str) -> None:
    def samples(view: RunView) -> Samples:
        for device in getattr(view.system, devices, ()):
            value = getattr(device, field)
            if value is not None:
                yield Sample((device.device,), value)

    SAMPLES[name] = samples


_by_device("rlhf_gpu_memory_used_bytes", "gpus", "memory_used_bytes")
_by_device("rlhf_gpu_memory_total_bytes", "gpus", "memory_total_bytes")
_by_device("rlhf_gpu_utilization_ratio", "gpus", "utilization_ratio")
_by_device("rlhf_gpu_temperature_celsius", "gpus", "temperature_celsius")
_by_device("rlhf_gpu_power_watts", "gpus", "power_watts")
_by_device("rlhf_gpu_sm_clock_hertz", "gpus", "sm_clock_hertz")
_by_device("rlhf_gpu_memory_clock_hertz", "gpus", "memory_clock_hertz")
_by_device("rlhf_gpu_ecc_uncorrected_total", "gpus", "ecc_uncorrected")
_by_device("rlhf_gpu_xid_total", "gpus", "xid_errors")
_by_device("rlhf_torch_memory_allocated_bytes", "torch", "allocated_bytes")
_by_device("rlhf_torch_memory_reserved_bytes", "torch", "reserved_bytes")
_by_device("rlhf_torch_memory_allocated_peak_bytes", "torch", "peak_allocated_bytes")
_by_device("rlhf_torch_memory_fragmentation_ratio", "torch", "fragmentation_ratio")
_by_device("rlhf_torch_allocation_retries_total", "torch", "allocation_retries")
_by_device("rlhf_torch_ooms_total", "torch", "ooms")


@_samples("rlhf_gpu_throttled")
def _gpu_throttled(view: RunView) -> Samples:
    for device in getattr(view.system, "gpus", ()):
        for reason, throttled in (device.throttle or {}).items():
            yield Sample((device.device, reason), int(throttled))


def _host(name: str, field: str) -> None:
    _scalar(name, lambda view: getattr(getattr(view.system, "host", None), field, None))


_host("rlhf_process_resident_memory_bytes", "resident_bytes")
_host("rlhf_process_cpu_seconds_total", "cpu_seconds")
_host("rlhf_process_threads", "threads")
_host("rlhf_process_open_fds", "open_fds")
_host("rlhf_host_memory_available_bytes", "memory_available_bytes")
_host("rlhf_host_memory_total_bytes", "memory_total_bytes")
_host("rlhf_host_cpu_utilization_ratio", "cpu_utilization_ratio")

# --- telemetry

_scalar("rlhf_telemetry_seconds_total", lambda v: v.snapshot.telemetry_s)
_by_label("rlhf_telemetry_faults_total", lambda v: faults.counts())
_scalar("rlhf_telemetry_queue_records", lambda v: v.telemetry.queued)
_by_label("rlhf_telemetry_dropped_total", lambda v: v.telemetry.dropped)
_scalar("rlhf_telemetry_journal_bytes_total", lambda v: v.telemetry.journal_bytes)
_scalar("rlhf_telemetry_spans_exported_total", lambda v: v.telemetry.spans_exported)
_scalar("rlhf_telemetry_scrapes_total", lambda v: v.telemetry.scrapes)
_scalar("rlhf_telemetry_scrape_seconds_total", lambda v: v.telemetry.scrape_s)
