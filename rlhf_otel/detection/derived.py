"""Signals that follow from what else a step recorded, such as facts per reward function as scalars."""

from __future__ import annotations

from rlhf_otel.records import StepRecord

REWARD_PHASE = "reward_function"


def add_derived(record: StepRecord) -> None:
    """Add the derived signals that the record has the inputs for; what is there already stays."""
    values, functions = record.values, record.reward_functions
    if functions:
        silent = any(mean != mean for mean, _ in functions.values())
        values.setdefault("unscored_ratio", 1.0 if silent else 0.0)
        deviations = [deviation for _, deviation in functions.values() if deviation == deviation]
        if deviations:
            values.setdefault("constant_reward_functions_ratio", deviations.count(0.0) / len(deviations))
        means = [abs(mean) for mean, _ in functions.values() if mean == mean]
        if len(means) > 1 and sum(means) > 0:
            values.setdefault("reward_function_share", max(means) / sum(means))
    seconds = [
        (phase.end_ns - phase.start_ns) / 1e9 for phase in record.phases if phase.phase == REWARD_PHASE
    ]
    if seconds:
        values.setdefault("reward_function_time", max(seconds))


def add_evaluation_gap(values: dict[str, float], evaluated: float | None) -> None:
    """Add how far the training reward is above the last evaluation's, relative to the larger of the two."""
    reward = values.get("reward")
    if reward is None or evaluated is None:
        return
    larger = max(abs(reward), abs(evaluated))
    if larger > 0:
        values["evaluation_gap"] = (reward - evaluated) / larger
