"""Signals that follow from what else a step recorded, such as facts per reward function as scalars."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rlhf_otel.records import StepRecord

REWARD_PHASE: Final = "reward_function"
SYNC_PHASE: Final = "weight_sync"
FAILURES: Final = frozenset({"reward_function_errors", "weight_sync_failures"})
"""Signals of what raised, which may be what ends the run."""
KL_SIGNALS: Final = frozenset(
    {"kl_per_token", "kl_per_token_sampled", "kl_per_sequence", "kl_to_sampler", "approx_kl"}
)


def add_derived(record: StepRecord) -> None:
    """Add the derived signals that the record has the inputs for; what is there already stays."""
    values = record.values
    if record.reward_functions:
        _add_of_functions(values, record.reward_functions)
    if "reward" in values and "completion_length" in values and values.keys().isdisjoint(KL_SIGNALS):
        values.setdefault("kl_unobserved", 1.0)
    if record.phases:
        _add_of_phases(record)


def _add_of_functions(values: dict[str, float], functions: Mapping[str, tuple[float, float]]) -> None:
    means: list[float] = []
    deviations: list[float] = []
    for mean, deviation in functions.values():
        if mean == mean:
            means.append(abs(mean))
        if deviation == deviation:
            deviations.append(deviation)
    values.setdefault("unscored_ratio", 1.0 if len(means) < len(functions) else 0.0)
    if deviations:
        values.setdefault("constant_reward_functions_ratio", deviations.count(0.0) / len(deviations))
    if len(means) > 1 and (total := sum(means)) > 0:
        values.setdefault("reward_function_share", max(means) / total)


def _add_of_phases(record: StepRecord) -> None:
    _add_longest(record, REWARD_PHASE, "reward_function_time")
    _add_longest(record, SYNC_PHASE, "weight_sync_time")
    failures = sum(phase.failed for phase in record.phases if phase.phase == SYNC_PHASE)
    if failures:
        record.values.setdefault("weight_sync_failures", float(failures))


def _add_longest(record: StepRecord, phase: str, signal: str) -> None:
    seconds = [(p.end_ns - p.start_ns) / 1e9 for p in record.phases if p.phase == phase]
    if seconds:
        record.values.setdefault(signal, max(seconds))


def add_evaluation_gap(values: dict[str, float], evaluated: float | None) -> None:
    """Add how far the training reward is above the last evaluation's, relative to the larger of the two."""
    reward = values.get("reward")
    if reward is None or evaluated is None:
        return
    larger = max(abs(reward), abs(evaluated))
    if larger > 0:
        values["evaluation_gap"] = (reward - evaluated) / larger
