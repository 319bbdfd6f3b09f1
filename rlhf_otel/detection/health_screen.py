"""A look at a run's numbers that tells which rules can take anything of its health, and which cannot be judged.

Nearly all rules take nothing at nearly all steps: a rule is worked out only where the number that tells most of it is
beyond what is harmless. Rules that compare the same number share the look.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from rlhf_otel.catalogue.health import NEAR
from rlhf_otel.catalogue.rules import Comparison, Rule, RuleClass, Statistic
from rlhf_otel.detection.closeness import closeness, harmless
from rlhf_otel.detection.conditions import FIELDS, NEUTRAL
from rlhf_otel.records import Statistics

_SURELY: Final = NEAR - 0.01
"""Closeness up to which rounding cannot make of nothing something."""
_EVERYTHING: Final = (-math.inf, math.inf)
_NOTHING: Final = (math.inf, -math.inf)

_Number = tuple[str, Statistic]


class Look(NamedTuple):
    """What a look at a step's numbers told."""

    suspects: set[int]
    """Positions of the rules that may take something while they are not active; no other one does."""
    absent: tuple[int, ...]
    """Numbers that rules compare and that are not there: whoever sees the same ones absent can judge the same rules."""


class _Sight(NamedTuple):
    """What is looked at: a number of a signal, and whom it concerns."""

    place: int
    """What the number is called where it is absent."""
    low: float
    high: float
    """Numbers from ``low`` to ``high`` concern no rule."""
    rules: tuple[int, ...]


class HealthScreen:
    """Knows rules by their positions in the sequence that it was made of."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        sights = _sights(rules)
        by_signal: dict[str, list[tuple[int, _Sight]]] = defaultdict(list)
        self._values: list[tuple[str, _Sight]] = []
        self._divisors: list[tuple[str, _Sight]] = []
        """Baselines that values are divided by: one of 0 is as good as none."""
        for (signal, statistic), sight in sights.items():
            if statistic in FIELDS:
                by_signal[signal].append((Statistics._fields.index(FIELDS[statistic]), sight))
            else:
                of_value = statistic is Statistic.VALUE
                (self._values if of_value else self._divisors).append((signal, sight))
        self._statistics = list(by_signal.items())

    def look(self, values: Mapping[str, float | None], statistics: Mapping[str, Statistics]) -> Look:
        """Look at the latest values and their statistics."""
        suspects: set[int] = set()
        absent: list[int] = []
        for signal, (place, low, high, rules) in self._values:
            number = values.get(signal)
            if number is None:
                absent.append(place)
            elif not low <= number <= high:
                suspects.update(rules)
        for signal, sights in self._statistics:
            known = statistics.get(signal)
            if known is None:
                absent += [sight.place for _, sight in sights]
                continue
            for index, (place, low, high, rules) in sights:
                number = known[index]
                if number is None:
                    absent.append(place)
                elif not low <= number <= high:
                    suspects.update(rules)
        self._look_at_divisors(statistics, suspects, absent)
        return Look(suspects, tuple(absent))

    def _look_at_divisors(
        self, statistics: Mapping[str, Statistics], suspects: set[int], absent: list[int]
    ) -> None:
        for signal, sight in self._divisors:
            known = statistics.get(signal)
            if known is None or not known.baseline:
                absent.append(sight.place)
            else:
                suspects.update(sight.rules)


def _sights(rules: Sequence[Rule]) -> dict[_Number, _Sight]:
    """Every number that is compared; those that tell most of a level with their bounds and the rules that these concern."""
    numbers = {
        (c.signal, c.statistic): _EVERYTHING for r in rules for c in r.conditions if isinstance(c, Comparison)
    }
    concerned: dict[_Number, list[int]] = defaultdict(list)
    for position, rule in enumerate(rules):
        condition = _telling(rule)
        if condition is None:
            continue
        number = condition.signal, condition.statistic
        low, high = _harmless(condition)
        lowest, highest = numbers[number]
        numbers[number] = max(low, lowest), min(high, highest)
        concerned[number].append(position)
    return {
        number: _Sight(place, *bounds, tuple(concerned[number]))
        for place, (number, bounds) in enumerate(numbers.items())
    }


def _telling(rule: Rule) -> Comparison | None:
    """The condition to look at, None where the rule takes nothing while it is not active. Any condition that is far
    from its threshold tells that; best is one that usual numbers are far from."""
    comparisons = [c for c in rule.conditions if isinstance(c, Comparison)]
    if rule.rule_class is not RuleClass.LEVEL or len(comparisons) < len(rule.conditions):
        return None
    return min(comparisons, key=_likelihood)


def _likelihood(condition: Comparison) -> int:
    usual = NEUTRAL.get(condition.statistic)
    if usual is None:
        return 1
    return 2 if closeness(condition, usual) > _SURELY else 0


def _harmless(condition: Comparison) -> tuple[float, float]:
    return _NOTHING if condition.statistic is Statistic.VALUE_RATIO else harmless(condition, _SURELY)
