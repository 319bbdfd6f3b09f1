r"""Health of a run, 0 to 1, by aspect and overall.

Every rule of an aspect takes a *damage* dᵢ (0 to 1) from it, and the worst dominates:

    health = (1 − d₁) · (1 − 0.1 · (1 − ∏ᵢ₌₂ (1 − dᵢ)))

(``catalogue.health.health_of``). Overall health is the same of the aspects, each with 1 less its health as its damage.

The damage of a rule grows with how far the *closest to healthy* of its conditions is on the way c from a neutral value (0) to
its threshold (1). As long as the rule is not active, a level rule takes from half-way on up to a quarter of what it takes as
it fires, w; once active it takes w, and towards w' the farther beyond: w + (w' − w)(1 − 1/c). Event rules, which judge
single steps, take nothing before. So damage never falls, and health never rises, as any input becomes more severe.

What is unknown is absent, and never 1: an aspect of whose essential signals none is there, or none of whose rules can be judged
yet. The coverage says which share of the rules could be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from rlhf_otel.catalogue.health import (
    ASPECT_OF_RULE,
    ASPECTS,
    AT_THRESHOLD,
    AT_WORST,
    BEFORE,
    LEFT_OUT,
    NEAR,
    Aspect,
    health_of,
)
from rlhf_otel.catalogue.rules import RULES, Comparison, NonFinite, Rule, RuleClass, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.detection.conditions import NEUTRAL, statistic_of
from rlhf_otel.detection.detector import Verdict
from rlhf_otel.records import Health, Statistics

_RATIOS: Final = frozenset(statistic for statistic, neutral in NEUTRAL.items() if neutral == 1.0)
_ABSOLUTE: Final = frozenset({Statistic.VALUE, Statistic.AVERAGE, Statistic.BASELINE})

Values = Mapping[str, float | None]


def closeness(condition: Comparison, value: float) -> float:
    """How far ``value`` is on the way to the threshold: 0 or less where it is neutral, 1 at the threshold, more beyond.

    Neutral is 1 for a ratio, which is judged by its logarithm, and 0 for all else; for levels that must not be low there is
    no such value, and the way is threshold over value.
    """
    threshold = condition.threshold
    if math.isnan(value):
        return 0.0
    if condition.statistic in _RATIOS and threshold not in (0.0, 1.0):
        return math.log(value) / math.log(threshold) if value > 0 else math.inf * (1 - threshold)
    if condition.op == "<" and threshold > 0 and condition.statistic in _ABSOLUTE:
        return threshold / value if value > 0 else math.inf
    if threshold == 0 or (condition.op == ">") != (threshold > 0):
        return math.inf if (value > threshold) == (condition.op == ">") and value != threshold else 0.0
    return value / threshold


def damage(rule: Rule, active: bool, close: float) -> float:
    """What ``rule`` takes, 0 to 1: ``active`` while it fires, ``close`` as :func:`closeness` of its conditions."""
    at_threshold, at_worst = AT_THRESHOLD[rule.severity], AT_WORST[rule.severity]
    if active and isinstance(rule.conditions[0], NonFinite):
        return at_worst
    if rule.rule_class is not RuleClass.LEVEL:
        return at_threshold if active else 0.0
    if active:
        return at_threshold + (at_worst - at_threshold) * (1.0 - 1.0 / max(1.0, close))
    return BEFORE * at_threshold * min(1.0, max(0.0, (close - NEAR) / (1.0 - NEAR)))


class HealthScores:
    """Scores a run by the rules that judge it."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """``rules`` are those of the run's detector; each counts in its aspect, one of the user's in that of its signal."""
        judged = [rule for rule in rules if rule.conditions and rule.name not in LEFT_OUT]
        self._plan = [
            (aspect, [rule for rule in judged if aspect_of(rule) == aspect.name]) for aspect in ASPECTS
        ]

    def observe(
        self, values: Values, statistics: Mapping[str, Statistics], verdicts: Iterable[Verdict]
    ) -> Health:
        """Health at a step: of its latest values, their statistics, and what the detector made of them."""
        active = {verdict.rule.name for verdict in verdicts if verdict.active}
        aspects: dict[str, float] = {}
        readable: dict[str, tuple[int, int]] = {}
        for aspect, rules in self._plan:
            damages, missing = _damages(rules, values, statistics, active)
            if not rules or (not damages and not missing):
                continue
            readable[aspect.name] = len(damages), len(damages) + missing
            if damages and any(values.get(name) is not None for name in aspect.essential):
                aspects[aspect.name] = health_of([*damages, *_direct(aspect, values)])
        read, there = (sum(column) for column in zip(*readable.values(), strict=True)) if readable else (0, 0)
        return Health(
            overall=health_of(1.0 - health for health in aspects.values()) if aspects else None,
            aspects=aspects,
            coverage=read / there if there else 0.0,
            coverages={name: found / of for name, (found, of) in readable.items()},
        )


def aspect_of(rule: Rule) -> str | None:
    """The aspect in which a rule counts; a rule of the user's in that of a known rule about the same signal."""
    return ASPECT_OF_RULE.get(rule.name) or _ASPECT_OF_SIGNAL.get(rule.signal)


_ASPECT_OF_SIGNAL: Final = {
    rule.signal: ASPECT_OF_RULE[rule.name] for rule in reversed(RULES) if rule.name in ASPECT_OF_RULE
} | {signal: aspect.name for aspect in ASPECTS for signal in aspect.essential}


class _Readings(NamedTuple):
    damages: list[float]
    missing: int
    """Rules that cannot be judged, without those that wait for something that may never happen."""


def _damages(
    rules: Sequence[Rule], values: Values, statistics: Mapping[str, Statistics], active: set[str]
) -> _Readings:
    damages: list[float] = []
    missing = 0
    for rule in rules:
        close, lacking = _rule_closeness(rule, values, statistics)
        missing += lacking
        if close is not None or rule.name in active:
            damages.append(damage(rule, rule.name in active, close or 0.0))
    return _Readings(damages, missing)


def _rule_closeness(
    rule: Rule, values: Values, statistics: Mapping[str, Statistics]
) -> tuple[float | None, bool]:
    """Of the condition that is closest to healthy, or None; and whether the rule lacks what it should have.

    A momentary signal that is absent has nothing to say: it breaks a rule of which other conditions can be read, and a rule
    about it alone is not judged.
    """
    found: list[float] = []
    silent = False
    for condition in rule.conditions:
        if isinstance(condition, NonFinite):
            return 0.0, False
        value = _observed(condition, values, statistics)
        if value is not None:
            found.append(closeness(condition, value))
        elif SIGNAL_BY_NAME[condition.signal].momentary:
            silent = True
        else:
            return None, True
    if not found:
        return None, False
    return (0.0 if silent else min(found)), False


def _observed(condition: Comparison, values: Values, statistics: Mapping[str, Statistics]) -> float | None:
    value = values.get(condition.signal)
    if condition.statistic is Statistic.VALUE:
        return value
    known = statistics.get(condition.signal)
    if known is None:
        return None
    return statistic_of(known, condition.statistic, math.nan if value is None else value)


def _direct(aspect: Aspect, values: Values) -> list[float]:
    """Damages of what is a health already, and of essential numbers that are not finite."""
    found = [values.get(name) for name in aspect.direct]
    damages = [
        1.0 - min(1.0, max(0.0, value)) for value in found if value is not None and math.isfinite(value)
    ]
    broken = (value for name in aspect.essential if (value := values.get(name)) is not None)
    return [*damages, *(1.0 for value in broken if not math.isfinite(value))]
