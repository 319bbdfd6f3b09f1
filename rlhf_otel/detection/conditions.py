"""Conditions as functions: whether they hold at a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final

from rlhf_otel.catalogue.rules import Comparison, Condition, NonFinite, Statistic
from rlhf_otel.records import Statistics, StepRecord

Predicate = Callable[[StepRecord, dict[str, Statistics]], bool]


def all_hold(conditions: Sequence[Condition]) -> Predicate:
    """Whether all of them hold at a step."""
    return reduce(_both, map(_compile, conditions))


def _both(one: Predicate, other: Predicate) -> Predicate:
    return lambda record, statistics: one(record, statistics) and other(record, statistics)


def _compile(condition: object) -> Predicate:
    if isinstance(condition, NonFinite):
        return _nonfinite(frozenset(condition.signals))
    assert isinstance(condition, Comparison)
    if condition.statistic is Statistic.VALUE:
        return _value(condition)
    if condition.statistic is Statistic.VALUE_RATIO:
        return _value_ratio(condition)
    return _statistic(condition)


def _nonfinite(signals: frozenset[str]) -> Predicate:
    def holds(record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        return bool(record.nonfinite) and not signals.isdisjoint(record.nonfinite)

    return holds


def _value(condition: Comparison) -> Predicate:
    signal, threshold, above = condition.signal, condition.threshold, condition.op == ">"

    def holds(record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        value = record.values.get(signal)
        return value is not None and (value > threshold if above else value < threshold)

    return holds


def _value_ratio(condition: Comparison) -> Predicate:
    signal, threshold, above = condition.signal, condition.threshold, condition.op == ">"

    def holds(record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        value, known = record.values.get(signal), statistics.get(signal)
        if value is None or known is None or known.baseline is None or known.baseline <= 0:
            return False
        bound = threshold * known.baseline
        return value > bound if above else value < bound

    return holds


FIELDS: Final = {
    Statistic.AVERAGE: "average",
    Statistic.ZSCORE: "zscore",
    Statistic.RATIO: "ratio",
    Statistic.SHIFT: "shift",
    Statistic.REFERENCE_RATIO: "reference_ratio",
    Statistic.BASELINE: "baseline",
    Statistic.CUSUM: "cusum",
}

NEUTRAL: Final = {
    Statistic.ZSCORE: 0.0,
    Statistic.SHIFT: 0.0,
    Statistic.CUSUM: 0.0,
    Statistic.RATIO: 1.0,
    Statistic.REFERENCE_RATIO: 1.0,
    Statistic.VALUE_RATIO: 1.0,
}
"""Where a statistic is while nothing changes; the others follow the signal's own level."""


def statistic_of(statistics: Statistics, which: Statistic, value: float = math.nan) -> float | None:
    """The value of one statistic; None while it is unknown. ``value`` is the signal's own."""
    if which is Statistic.VALUE_RATIO:
        return value / statistics.baseline if statistics.baseline else None
    found: float | None = getattr(statistics, FIELDS[which])
    return found


def _statistic(condition: Comparison) -> Predicate:
    signal, threshold, above = condition.signal, condition.threshold, condition.op == ">"
    index = Statistics._fields.index(FIELDS[condition.statistic])
    momentary = condition.statistic is Statistic.ZSCORE

    def holds(record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        # A step that lacks the signal (a reuse step) is judged by its latest averages, but repeats no spike.
        known = statistics.get(signal)
        if known is None or (momentary and signal not in record.values):
            return False
        value = known[index]
        return value is not None and (value > threshold if above else value < threshold)

    return holds
