"""A look at a step's numbers that tells which rules it could breach at all.

Nearly all rules fail at nearly all steps, so that a rule is judged in full only where one of its conditions may
hold. Rules that compare the same number share the look: what lies between their thresholds concerns none of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from rlhf_otel.catalogue.rules import Comparison, NonFinite, Rule, Statistic
from rlhf_otel.detection.conditions import FIELDS, NEUTRAL
from rlhf_otel.records import Statistics, StepRecord

_Look = tuple[float, float, tuple[int, ...]]
"""Numbers from the first to the second concern no rule; others may concern those at these positions."""


class Screen:
    """Knows rules by their positions in the sequence that it was made of."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        compared: dict[tuple[str, Statistic], list[tuple[int, Comparison]]] = defaultdict(list)
        nonfinite = []
        for position, rule in enumerate(rules):
            condition = _most_telling(rule)
            if isinstance(condition, NonFinite):
                nonfinite.append(position)
            else:
                compared[condition.signal, condition.statistic].append((position, condition))
        looks = {key: _look(found) for key, found in compared.items()}
        self._nonfinite = tuple(nonfinite)
        self._values = _of(looks, Statistic.VALUE)
        self._value_ratios = _of(looks, Statistic.VALUE_RATIO)
        self._statistics: dict[str, list[tuple[int, *_Look]]] = {}
        for (signal, statistic), look in looks.items():
            if statistic in FIELDS:
                index = Statistics._fields.index(FIELDS[statistic])
                self._statistics.setdefault(signal, []).append((index, *look))

    def suspects(self, record: StepRecord, statistics: dict[str, Statistics]) -> set[int]:
        """Positions of the rules that the step may breach; no other one does."""
        found: set[int] = set()
        values = record.values
        for signal, low, high, rules in self._values:
            value = values.get(signal)
            if value is not None and not low <= value <= high:
                found.update(rules)
        for signal, low, high, rules in self._value_ratios:
            value, known = values.get(signal), statistics.get(signal)
            if value is not None and known is not None and known.baseline:
                usual = known.baseline
                if not low * usual <= value <= high * usual:
                    found.update(rules)
        for signal, known in statistics.items():
            for index, low, high, rules in self._statistics.get(signal, ()):
                value = known[index]
                if value is not None and not low <= value <= high:
                    found.update(rules)
        if record.nonfinite:
            found.update(self._nonfinite)
        return found


def _most_telling(rule: Rule) -> Comparison | NonFinite:
    """The condition to look at. All have to hold, so that any would do; best is one that usual numbers fail."""
    return min(rule.conditions, key=_likelihood)


def _likelihood(condition: Comparison | NonFinite) -> int:
    if isinstance(condition, NonFinite):
        return 0
    usual = NEUTRAL.get(condition.statistic)
    if usual is None:
        return 1
    holds = usual > condition.threshold if condition.op == ">" else usual < condition.threshold
    return 2 if holds else 0


def _look(found: Sequence[tuple[int, Comparison]]) -> _Look:
    low = max((c.threshold for _, c in found if c.op == "<"), default=-math.inf)
    high = min((c.threshold for _, c in found if c.op == ">"), default=math.inf)
    return low, high, tuple(position for position, _ in found)


def _of(looks: dict[tuple[str, Statistic], _Look], statistic: Statistic) -> tuple[tuple[str, *_Look], ...]:
    return tuple((signal, *look) for (signal, which), look in looks.items() if which is statistic)
