"""Findings in words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Final

from rlhf_otel.catalogue.rules import Comparison, Severity, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.replay.coverage import Unjudged, unjudged
from rlhf_otel.replay.engine import Replay, ReplayedAnomaly
from rlhf_otel.replay.log import Log

_STATISTIC: Final[dict[str, str]] = {
    Statistic.VALUE: "the threshold is {threshold}",
    Statistic.AVERAGE: "its average over about 10 steps is {observed}, the threshold {threshold}",
    Statistic.ZSCORE: "that is {observed} usual deviations off, the threshold is {threshold}",
    Statistic.SHIFT: "its average is {observed} usual deviations off, the threshold is {threshold}",
    Statistic.RATIO: "its average is {observed} times the usual, the threshold {threshold}",
    Statistic.REFERENCE_RATIO: "its average is {observed} times that of the first steps, the threshold {threshold}",
    Statistic.BASELINE: "what is usual is {observed}, the threshold {threshold}",
    Statistic.CUSUM: "deviations from its trend add up to {observed}, the threshold is {threshold}",
    Statistic.VALUE_RATIO: "that is {observed} times the usual, the threshold is {threshold}",
}
_WORDS: Final = {">": "above", "<": "below"}


@dataclass(frozen=True, slots=True)
class Report:
    """A finished replay."""

    log: Log
    replay: Replay

    @property
    def anomalies(self) -> list[ReplayedAnomaly]:
        """What would have fired, in the order of firing."""
        return self.replay.anomalies

    @property
    def unjudged(self) -> list[Unjudged]:
        """What could not be judged."""
        return unjudged(self.replay, self.log)


def number(value: float | None) -> str:
    """A number for people: 4 digits."""
    if value is None:
        return "unknown"
    return "NaN" if math.isnan(value) else f"{value:.4g}"


def with_unit(value: float | None, signal: str) -> str:
    """A number with its signal's unit, where it has one that says something."""
    known = SIGNAL_BY_NAME.get(signal)
    unit = known.unit if known is not None else "1"
    return number(value) if unit in ("1", "ratio") else f"{number(value)} {unit}"


def why(found: ReplayedAnomaly) -> str:
    """The evidence, in a sentence: the value, what is usual, and the threshold that it passed."""
    anomaly = found.anomaly
    if anomaly.statistic == "nonfinite":
        return f"{anomaly.signal} was {_nonfinite(anomaly.value)} at step {anomaly.step}"
    usual = "" if anomaly.baseline is None else f", usually {number(anomaly.baseline)}"
    sentence = (
        f"{anomaly.signal} was {with_unit(anomaly.value, anomaly.signal)} at step {anomaly.step}{usual}"
    )
    template = _STATISTIC.get(
        anomaly.statistic, f"its {anomaly.statistic} is {{observed}}, the threshold {{threshold}}"
    )
    threshold = f"{_operator(found)} {number(anomaly.threshold)}".strip()
    others = [
        _condition(condition) for condition in found.rule_conditions[1:] if isinstance(condition, Comparison)
    ]
    also = f"; also {' and '.join(others)}" if others else ""
    return f"{sentence}; {template.format(observed=number(anomaly.observed), threshold=threshold)}{also}"


def _nonfinite(value: float) -> str:
    return "NaN or infinite" if math.isfinite(value) else number(value)


def _operator(found: ReplayedAnomaly) -> str:
    first = found.rule_conditions[0]
    return _WORDS[first.op] if isinstance(first, Comparison) else ""


def _condition(condition: Comparison) -> str:
    statistic = condition.statistic.value.replace("_", " ")
    return f"{statistic} of {condition.signal} {_WORDS[condition.op]} {number(condition.threshold)}"


def span(found: ReplayedAnomaly) -> str:
    """Its steps, for people."""
    if found.first_step == found.last_step:
        return f"step {found.first_step}"
    return f"steps {found.first_step} to {found.last_step}"


def headline(report: Report) -> str:
    """What was read."""
    replay, log = report.replay, report.log
    if not replay.steps:
        return f"{log.path}: {log.format}, no training steps"
    steps = f"{replay.steps} logged steps ({replay.first_step} to {replay.last_step})"
    return f"{log.path}: {log.format}, {steps}{'' if log.timed else ', no timestamps'}"


def verdict(report: Report) -> str:
    """How many anomalies of which severity."""
    counts = Counter(found.anomaly.severity for found in report.anomalies)
    if not counts:
        return "No anomalies."
    parts = ", ".join(f"{counts[severity]} {severity}" for severity in Severity if counts[severity])
    total = len(report.anomalies)
    return f"{total} {'anomaly' if total == 1 else 'anomalies'}: {parts}."
