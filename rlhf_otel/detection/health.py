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

Most of that is the same from step to step. Only rules that are active or that may take something are worked out
(``health_screen.py``), and what can be judged is found out again only where other numbers are there than before.
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
from rlhf_otel.detection.closeness import closeness
from rlhf_otel.detection.conditions import statistic_of
from rlhf_otel.detection.detector import Verdict
from rlhf_otel.detection.health_screen import HealthScreen
from rlhf_otel.records import Health, Statistics

MOST_KNOWN: Final = 64
"""Combinations of which is remembered what can be judged: a run has few, mostly one for a kind of step."""

Values = Mapping[str, float | None]


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


class _Judged(NamedTuple):
    """What can be judged of a run."""

    aspects: tuple[Aspect, ...]
    """Those of which a rule can be."""
    coverage: float
    coverages: Mapping[str, float]


class HealthScores:
    """Scores a run by the rules that judge it."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """``rules`` are those of the run's detector; each counts in its aspect, one of the user's in that of its signal."""
        counting = [rule for rule in rules if rule.conditions and rule.name not in LEFT_OUT]
        self._rules = [(rule, aspect) for rule in counting if (aspect := aspect_of(rule)) is not None]
        self._positions = {rule.name: position for position, (rule, _) in enumerate(self._rules)}
        self._screen = HealthScreen([rule for rule, _ in self._rules])
        self._known: dict[tuple[Sequence[int], frozenset[int]], _Judged] = {}
        """By the numbers that are absent and the rules that are active."""

    def observe(
        self, values: Values, statistics: Mapping[str, Statistics], verdicts: Iterable[Verdict]
    ) -> Health:
        """Health at a step: of its latest values, their statistics, and what the detector made of them."""
        active = {verdict.rule.name for verdict in verdicts if verdict.active}
        positions = frozenset(self._positions[name] for name in active if name in self._positions)
        suspects, absent = self._screen.look(values, statistics)
        judged = self._known.get((absent, positions))
        if judged is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            judged = self._known[absent, positions] = self._judged(values, statistics, positions)
        damages: dict[str, list[float]] = {
            aspect.name: _direct(aspect, values) if aspect.direct else [] for aspect in judged.aspects
        }
        for position in suspects | positions:
            rule, name = self._rules[position]
            close, _ = _rule_closeness(rule, values, statistics)
            if close is not None or position in positions:
                damages[name].append(damage(rule, position in positions, close or 0.0))
        aspects: dict[str, float] = {}
        for aspect in judged.aspects:
            essential = [value for name in aspect.essential if (value := values.get(name)) is not None]
            if essential:
                taken = damages[aspect.name]
                if not all(map(math.isfinite, essential)):
                    taken.append(1.0)
                aspects[aspect.name] = health_of(taken) if taken else 1.0
        return Health(
            overall=health_of(1.0 - health for health in aspects.values()) if aspects else None,
            aspects=aspects,
            coverage=judged.coverage,
            coverages=judged.coverages,
        )

    def _judged(
        self, values: Values, statistics: Mapping[str, Statistics], active: frozenset[int]
    ) -> _Judged:
        found = dict.fromkeys((aspect.name for aspect in ASPECTS), 0)
        there = found.copy()
        for position, (rule, aspect) in enumerate(self._rules):
            close, lacking = _rule_closeness(rule, values, statistics)
            readable = close is not None or position in active
            found[aspect] += readable
            there[aspect] += readable + lacking
        total = sum(there.values())
        return _Judged(
            aspects=tuple(aspect for aspect in ASPECTS if found[aspect.name]),
            coverage=sum(found.values()) / total if total else 0.0,
            coverages={name: found[name] / of for name, of in there.items() if of},
        )


def aspect_of(rule: Rule) -> str | None:
    """The aspect in which a rule counts; a rule of the user's in that of a known rule about the same signal."""
    return ASPECT_OF_RULE.get(rule.name) or _ASPECT_OF_SIGNAL.get(rule.signal)


_ASPECT_OF_SIGNAL: Final = {
    rule.signal: ASPECT_OF_RULE[rule.name] for rule in reversed(RULES) if rule.name in ASPECT_OF_RULE
} | {signal: aspect.name for aspect in ASPECTS for signal in aspect.essential}


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
    """Damages of what is a health already."""
    found = [values.get(name) for name in aspect.direct]
    return [1.0 - min(1.0, max(0.0, value)) for value in found if value is not None and math.isfinite(value)]
