"""How far a number is on the way from its neutral value to a rule's threshold, and at which number it has come so far."""

from __future__ import annotations

import math
from typing import Final

from rlhf_otel.catalogue.rules import Comparison, Statistic
from rlhf_otel.detection.conditions import NEUTRAL

_RATIOS: Final = frozenset(statistic for statistic, neutral in NEUTRAL.items() if neutral == 1.0)
_ABSOLUTE: Final = frozenset({Statistic.VALUE, Statistic.AVERAGE, Statistic.BASELINE})


def closeness(condition: Comparison, value: float) -> float:
    """How far ``value`` is on the way to the threshold: 0 or less where it is neutral, 1 at the threshold, more beyond.

    Neutral is 1 for a ratio, which is judged by its logarithm, and 0 for all else; for levels that must not be low there is
    no such value, and the way is threshold over value.
    """
    threshold = condition.threshold
    if math.isnan(value):
        return 0.0
    if _by_logarithm(condition):
        return math.log(value) / math.log(threshold) if value > 0 else math.inf * (1 - threshold)
    if _must_not_be_low(condition):
        return threshold / value if value > 0 else math.inf
    if _without_way(condition):
        return math.inf if (value > threshold) == (condition.op == ">") and value != threshold else 0.0
    return value / threshold


def harmless(condition: Comparison, close: float) -> tuple[float, float]:
    """Lowest and highest number of which :func:`closeness` is ``close`` (above 0) at most."""
    threshold = condition.threshold
    if _by_logarithm(condition):
        bound, upwards = threshold**close, threshold > 1
    elif _must_not_be_low(condition):
        bound, upwards = threshold / close, False
    else:
        bound = threshold if _without_way(condition) else threshold * close
        upwards = condition.op == ">"
    return (-math.inf, bound) if upwards else (bound, math.inf)


def _by_logarithm(condition: Comparison) -> bool:
    return condition.statistic in _RATIOS and condition.threshold > 0 and condition.threshold != 1.0


def _must_not_be_low(condition: Comparison) -> bool:
    return condition.op == "<" and condition.threshold > 0 and condition.statistic in _ABSOLUTE


def _without_way(condition: Comparison) -> bool:
    """Whether the neutral value is at the threshold or beyond it."""
    return condition.threshold == 0 or (condition.op == ">") != (condition.threshold > 0)
