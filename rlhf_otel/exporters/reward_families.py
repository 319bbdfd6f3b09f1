"""Samples of what a `RewardModelMonitor` has found out: for each family its labels and value, reward by reward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from rlhf_otel.records import RunView

Found = Iterator[tuple[tuple[str, ...], float]]
"""Values of the labels behind the reward's, and the sample's value."""

_DISTANCES: Final = ("kolmogorov_smirnov", "population_stability_index", "wasserstein")
_QUARTILES: Final = ("lower", "median", "upper")


def _one(read: Callable[[Any], float | None]) -> Callable[[Any], Found]:
    def found(watched: Any) -> Found:
        value = read(watched)
        if value is not None:
            yield (), value

    return found


def _distances(field: str) -> Callable[[Any], Found]:
    def found(watched: Any) -> Found:
        for measure in _DISTANCES:
            distance = getattr(watched.reliability, measure)
            if distance is not None:
                yield (measure,), getattr(distance, field)

    return found


def _saturated(watched: Any) -> Found:
    for end in ("low", "high"):
        share = getattr(watched.reliability, f"saturated_{end}")
        if share is not None:
            yield (end,), share


def _shortcuts(watched: Any) -> Found:
    return (((name,), value) for name, value in watched.reliability.shortcuts.items())


def _margin(watched: Any) -> Found:
    if watched.calibration is not None:
        for quartile, value in zip(_QUARTILES, watched.calibration.margin_quantiles, strict=True):
            yield (quartile,), value


_BY_REWARD: Final[dict[str, Callable[[Any], Found]]] = {
    "mean": _one(lambda w: w.reliability.mean),
    "std": _one(lambda w: w.reliability.std),
    "stability_ratio": _one(lambda w: w.reliability.stability),
    "consistency_ratio": _one(lambda w: w.reliability.consistency),
    "drift": _distances("value"),
    "drift_significance": _distances("p"),
    "saturated_ratio": _saturated,
    "shortcut_correlation": _shortcuts,
    "pairs_accuracy_ratio": _one(lambda w: w.calibration and w.calibration.accuracy),
    "pairs_brier": _one(lambda w: w.calibration and w.calibration.brier),
    "calibration_error_ratio": _one(lambda w: w.calibration and w.calibration.calibration_error),
    "margin": _margin,
    "none_ratio": _one(lambda w: w.calls.none_rate),
    "calls_total": _one(lambda w: w.calls.calls),
    "call_errors_total": _one(lambda w: w.calls.errors),
    "call_timeouts_total": _one(lambda w: w.calls.timeouts),
    "call_seconds_total": _one(lambda w: w.calls.seconds),
    "call_slowest_seconds": _one(lambda w: w.calls.slowest_s),
}


def _of_all(by_reward: Callable[[Any], Found]) -> Callable[[RunView], Found]:
    def found(view: RunView) -> Found:
        for name, watched in view.rewards.items():
            for labels, value in by_reward(watched):
                yield (name, *labels), value

    return found


def _lowest_agreement(view: RunView) -> Found:
    for name in view.rewards:
        found = [value for pair, value in view.agreement.items() if name in pair]
        if found:
            yield (name,), min(found)


FAMILIES: Final[dict[str, Callable[[RunView], Found]]] = {
    **{f"rlhf_reward_model_{name}": _of_all(read) for name, read in _BY_REWARD.items()},
    "rlhf_reward_model_lowest_agreement": _lowest_agreement,
}
