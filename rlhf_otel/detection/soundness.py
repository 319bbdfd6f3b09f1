"""Whether a rule can fire at all: one that cannot is worse than none, since it looks like protection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

from rlhf_otel.catalogue.rules import Comparison, Condition, NonFinite, Rule, RuleClass, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.detection.drift import LARGEST

NOT_NEGATIVE: Final = frozenset({"tokens", "seconds", "steps", "1/seconds", "ratio"})
"""Units of quantities that are never below 0."""
NEVER_NEGATIVE: Final = frozenset({"grad_norm", "entropy", "data_entropy", "reward_std", "advantage_std"})
"""Further quantities: norms, entropies over tokens, deviations."""
OUTSIDE_0_TO_1: Final = frozenset({"evaluation_gap"})
"""Signals in ``ratio`` that are no share."""
_IN_UNIT: Final = frozenset({Statistic.VALUE, Statistic.AVERAGE, Statistic.BASELINE})
_RATIOS: Final = frozenset({Statistic.RATIO, Statistic.REFERENCE_RATIO, Statistic.VALUE_RATIO})


def faults(rule: Rule) -> Iterator[tuple[int | None, str]]:
    """Why a rule judged in process can never fire: the condition's index, None for the whole, and a reason."""
    if rule.rule_class is RuleClass.OUTSIDE:
        return
    if not rule.conditions:
        yield None, "it has no condition"
    if rule.steps < 1:
        yield None, f"steps is {rule.steps}; at least 1 step has to be in breach"
    for index, condition in enumerate(rule.conditions):
        reason = _never(condition) or _wrong_class(condition, rule.rule_class)
        if reason:
            yield index, reason
    for (_, one), (index, other) in combinations(enumerate(rule.conditions), 2):
        if _contradict(one, other):
            yield index, "it can never hold together with another condition of the rule"


def cycles(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """Rules that explain each other away, so that neither is ever told: pairs of names."""
    explained: Mapping[str, Sequence[str]] = {rule.name: rule.inhibited_by for rule in rules}
    for rule in rules:
        seen: set[str] = set()
        queue = list(explained[rule.name])
        while queue:
            name = queue.pop()
            if name == rule.name:
                yield rule.name, next(other for other in explained[rule.name] if other in {*seen, name})
                break
            if name not in seen:
                seen.add(name)
                queue += explained.get(name, ())


def _never(condition: Condition) -> str:
    if isinstance(condition, NonFinite):
        unwatched = [name for name in condition.signals if not SIGNAL_BY_NAME[name].watch_nonfinite]
        return f"NaN in {', '.join(unwatched)} is not counted, it means 'not measured'" if unwatched else ""
    signal, statistic = SIGNAL_BY_NAME[condition.signal], condition.statistic
    if statistic is not Statistic.VALUE and not signal.baseline:
        return f"no {statistic.value} is kept of {signal.name}, only its value"
    if statistic is Statistic.CUSUM and not signal.drift:
        return f"no cusum is kept of {signal.name}"
    return _out_of_range(condition)


def _out_of_range(condition: Comparison) -> str:
    signal, statistic, threshold = SIGNAL_BY_NAME[condition.signal], condition.statistic, condition.threshold
    share = signal.unit == "ratio" and signal.name not in OUTSIDE_0_TO_1
    positive = (
        signal.unit in NOT_NEGATIVE and signal.name not in OUTSIDE_0_TO_1
    ) or signal.name in NEVER_NEGATIVE
    if share and statistic in _IN_UNIT and condition.op == ">" and threshold >= 1:
        return f"{signal.name} is a share and never above 1"
    if positive and statistic in (_IN_UNIT | _RATIOS) and condition.op == "<" and threshold <= 0:
        return f"{statistic.value} of {signal.name} is never below 0"
    if statistic is Statistic.CUSUM and abs(threshold) >= LARGEST:
        return f"cusum stops at {LARGEST:g}"
    return ""


def _wrong_class(condition: Condition, rule_class: RuleClass) -> str:
    if rule_class is not RuleClass.LEVEL:
        return ""
    if isinstance(condition, NonFinite):
        return "only an event rule can see what is not finite"
    if condition.statistic is Statistic.VALUE_RATIO:
        return "value_ratio is not exported to Prometheus; only an event rule can compare it"
    return ""


def _contradict(one: Condition, other: Condition) -> bool:
    if not (isinstance(one, Comparison) and isinstance(other, Comparison)):
        return False
    if (one.signal, one.statistic) != (other.signal, other.statistic) or one.op == other.op:
        return False
    above, below = (one, other) if one.op == ">" else (other, one)
    return above.threshold >= below.threshold
