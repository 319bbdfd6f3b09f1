"""The detector: evaluates every rule at every step and keeps each rule's verdict.

A rule fires when all its conditions held for ``rule.steps`` consecutive steps. Its verdict then stays active
until :data:`LATCH_STEPS` clean steps and :data:`LATCH_SECONDS` have passed since its last breach, so that a
scrape cannot miss it. While an inhibiting rule is active, a rule neither fires nor counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Final, NamedTuple

from rlhf_otel.catalogue.rules import (
    LATCH_SECONDS,
    LATCH_STEPS,
    RULES,
    Comparison,
    Condition,
    NonFinite,
    Rule,
    RuleClass,
    Statistic,
)
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.records import Anomaly, Statistics, StepRecord

LATCH_NS: Final = int(LATCH_SECONDS * 1e9)

Predicate = Callable[[StepRecord, dict[str, Statistics]], bool]


class Verdict(NamedTuple):
    """What is exported about a rule; immutable, replaced when it changes."""

    rule: Rule
    active: bool = False
    total: int = 0
    first_step: int = 0
    last_step: int = 0
    last_time_ns: int = 0
    signal: str = ""
    value: float | None = None
    usual: float | None = None
    first_time_ns: int = 0


class _RuleState:
    __slots__ = (
        "clean",
        "idle",
        "inhibitors",
        "momentary",
        "pending",
        "rule",
        "since",
        "since_ns",
        "verdict",
    )

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.verdict = Verdict(rule, signal=rule.signal)
        self.inhibitors: tuple[_RuleState, ...] = ()
        self.pending = 0
        self.since = 0
        self.since_ns = 0
        self.clean = 0
        self.momentary = frozenset(
            c.signal for c in rule.conditions if isinstance(c, Comparison) and c.statistic is Statistic.ZSCORE
        )
        self.idle = True
        """Neither pending nor active: a step without breach changes nothing."""

    def judges(self, step: int, statistics: Mapping[str, Statistics]) -> bool:
        """Whether the rule applies, and yet; without ``after_step`` also to a step 0, as other programs count."""
        if any(signal in statistics for signal in self.rule.absent):
            return False
        return not self.rule.after_step or step > self.rule.after_step


_Planned = tuple[_RuleState, str, int | None, bool, float, Predicate]


class Detector:
    """The verdicts of all rules that can be judged in process."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        judged = [rule for rule in rules if rule.rule_class is not RuleClass.OUTSIDE]
        self.rules = tuple(judged)
        """The rules that are judged here."""
        self._states = {rule.name: _RuleState(rule) for rule in judged}
        for state in self._states.values():
            names = state.rule.inhibited_by
            state.inhibitors = tuple(self._states[name] for name in names if name in self._states)
        self._order = _inhibitors_first(list(self._states.values()))
        self._plan = tuple(
            (state, *_screen(state.rule), _all_hold(state.rule.conditions)) for state in self._order
        )
        self.verdicts: tuple[Verdict, ...] = tuple(state.verdict for state in self._order)
        self.streaks: dict[str, int] = {}
        """Rule to the steps in a row that it has been in breach, of those that are; a new dict at every step."""

    def observe(self, record: StepRecord, statistics: dict[str, Statistics]) -> list[Anomaly]:
        """Judge one step; return the anomalies that begin with it.

        Nearly all rules fail at their first condition at nearly all steps, which is found out without a call;
        what passes is judged in full.
        """
        fired: list[Anomaly] = []
        changed = False
        self.streaks = streaks = {}
        plan = self._plan if record.kind is not StepKind.REUSE else self._plan_of_reuse(record)
        for state, signal, index, above, threshold, breached in plan:
            if index is not None:
                known = statistics.get(signal)
                value = None if known is None else known[index]
                possible = value is not None and (value > threshold if above else value < threshold)
            else:
                possible = True
            if not (possible and breached(record, statistics)):
                if not state.idle:
                    changed |= self._clean(state, record)
            elif state.judges(record.step, statistics) and not _inhibited(state):
                changed = True
                if self._breach(state, record):
                    fired.append(_fire(state, record, statistics))
                streaks[state.rule.name] = state.pending
            elif not state.idle:
                changed |= self._clean(state, record)
        if changed:
            self.verdicts = tuple(state.verdict for state in self._order)
        return fired

    def _plan_of_reuse(self, record: StepRecord) -> list[_Planned]:
        """A step that did not measure a deviation again neither breaks nor prolongs its breach."""
        plan = []
        for planned in self._plan:
            state = planned[0]
            if state.momentary <= record.values.keys():
                plan.append(planned)
            elif state.pending:
                self.streaks[state.rule.name] = state.pending
        return plan

    @staticmethod
    def _breach(state: _RuleState, record: StepRecord) -> bool:
        """Count a step in breach; True when the rule begins to fire with it."""
        state.idle = False
        if not state.pending:
            state.since, state.since_ns = record.step, record.time_ns
        state.pending += 1
        state.clean = 0
        if not state.verdict.active:
            return state.pending >= state.rule.steps
        if state.pending >= state.rule.steps:
            state.verdict = state.verdict._replace(last_step=record.step, last_time_ns=record.time_ns)
        return False

    @staticmethod
    def _clean(state: _RuleState, record: StepRecord) -> bool:
        """Count a step without breach; True when the verdict ends with it."""
        state.pending = 0
        state.clean += 1
        verdict = state.verdict
        if not verdict.active:
            state.idle = True
            return False
        if state.clean < LATCH_STEPS or 0 <= record.time_ns - verdict.last_time_ns < LATCH_NS:
            return False
        state.idle = True
        state.verdict = verdict._replace(active=False)
        return True


def _inhibited(state: _RuleState) -> bool:
    return any(inhibitor.verdict.active for inhibitor in state.inhibitors)


def _inhibitors_first(states: list[_RuleState]) -> list[_RuleState]:
    """Order rules so that each is judged after those that can explain it away, at the same step."""
    ordered: list[_RuleState] = []

    def visit(state: _RuleState) -> None:
        for inhibitor in state.inhibitors:
            visit(inhibitor)
        if state not in ordered:
            ordered.append(state)

    for state in states:
        visit(state)
    return ordered


def _screen(rule: Rule) -> tuple[str, int | None, bool, float]:
    """Signal, index, direction and threshold of the first condition, where it compares a statistic."""
    first = rule.conditions[0]
    if not isinstance(first, Comparison) or first.statistic not in _FIELDS:
        return "", None, False, 0.0
    index = Statistics._fields.index(_FIELDS[first.statistic])
    return first.signal, index, first.op == ">", first.threshold


def _all_hold(conditions: Sequence[Condition]) -> Predicate:
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


_FIELDS: Final = {
    Statistic.AVERAGE: "average",
    Statistic.ZSCORE: "zscore",
    Statistic.RATIO: "ratio",
    Statistic.SHIFT: "shift",
    Statistic.REFERENCE_RATIO: "reference_ratio",
    Statistic.BASELINE: "baseline",
    Statistic.CUSUM: "cusum",
}


def statistic_of(statistics: Statistics, which: Statistic, value: float = math.nan) -> float | None:
    """The value of one statistic; None while it is unknown. ``value`` is the signal's own."""
    if which is Statistic.VALUE_RATIO:
        return value / statistics.baseline if statistics.baseline else None
    found: float | None = getattr(statistics, _FIELDS[which])
    return found


def _statistic(condition: Comparison) -> Predicate:
    signal, threshold, above = condition.signal, condition.threshold, condition.op == ">"
    index = Statistics._fields.index(_FIELDS[condition.statistic])
    momentary = condition.statistic is Statistic.ZSCORE

    def holds(record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        # A step that lacks the signal (a reuse step) is judged by its latest averages, but repeats no spike.
        known = statistics.get(signal)
        if known is None or (momentary and signal not in record.values):
            return False
        value = known[index]
        return value is not None and (value > threshold if above else value < threshold)

    return holds


def _observed_value(condition: Condition, record: StepRecord, signal: str, known: Statistics | None) -> float:
    value = record.values.get(signal, known.average if known else math.nan)
    if isinstance(condition, NonFinite) and math.isfinite(value):
        return math.nan  # seen at a hook, where it arose; the trainer's own average has lost it
    return value


def _readable(baseline: float | None) -> float | None:
    """A baseline as people are told it: what is left of a long-gone start-up value is 0."""
    return 0.0 if baseline is not None and abs(baseline) < 1e-9 else baseline


def _fire(state: _RuleState, record: StepRecord, statistics: dict[str, Statistics]) -> Anomaly:
    rule = state.rule
    condition = rule.conditions[0]
    signal = rule.signal
    if isinstance(condition, NonFinite):
        signal = next(name for name in condition.signals if name in record.nonfinite)
    known = statistics.get(signal)
    value = _observed_value(condition, record, signal, known)
    threshold = observed = None
    statistic = "nonfinite"
    if isinstance(condition, Comparison):
        threshold, statistic = condition.threshold, condition.statistic.value
        observed = (
            value
            if condition.statistic is Statistic.VALUE or known is None
            else statistic_of(known, condition.statistic, value)
        )
    if record.lag.get(signal):
        state.since -= record.lag[signal]
    usual = _readable(known.baseline) if known else None
    state.verdict = Verdict(
        rule, True, state.verdict.total + 1, state.since, record.step, record.time_ns, signal, value, usual,
        state.since_ns,
    )  # fmt: skip
    return Anomaly(
        rule.name, rule.severity, signal, value, usual, threshold, statistic, observed,
        state.since, record.step, record.time_ns, rule.cause, rule.remedy, record.details.get(signal, ""),
    )  # fmt: skip
