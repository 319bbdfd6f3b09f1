"""The detector: evaluates every rule at every step and keeps each rule's verdict.

A rule fires when all its conditions held for ``rule.steps`` consecutive steps. Its verdict then stays active
until :data:`LATCH_STEPS` clean steps and :data:`LATCH_SECONDS` have passed since its last breach, so that a
scrape cannot miss it. While an inhibiting rule is active, a rule neither fires nor counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
from rlhf_otel.detection.conditions import all_hold, statistic_of
from rlhf_otel.detection.screening import Screen
from rlhf_otel.records import Anomaly, Statistics, StepRecord

LATCH_NS: Final = int(LATCH_SECONDS * 1e9)


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
        self._conditions = tuple(all_hold(state.rule.conditions) for state in self._order)
        self._screen = Screen([state.rule for state in self._order])
        self._awake: set[int] = set()
        """Positions of the rules that are pending or active."""
        self.verdicts: tuple[Verdict, ...] = tuple(state.verdict for state in self._order)
        self.streaks: dict[str, int] = {}
        """Rule to the steps in a row that it has been in breach, of those that are; a new dict at every step."""

    def observe(self, record: StepRecord, statistics: dict[str, Statistics]) -> list[Anomaly]:
        """Judge one step; return the anomalies that begin with it.

        A rule that is idle and that the step can't breach is not looked at: nothing changes for it.
        """
        fired: list[Anomaly] = []
        changed = False
        self.streaks = streaks = {}
        looked_at = sorted(self._awake | self._screen.suspects(record, statistics))
        for position in looked_at:
            state = self._order[position]
            if record.kind is StepKind.REUSE and not state.momentary <= record.values.keys():
                # A step that did not measure a deviation again neither breaks nor prolongs its breach.
                if state.pending:
                    streaks[state.rule.name] = state.pending
            elif self._is_breached(position, record, statistics):
                changed = True
                if self._breach(state, record):
                    fired.append(_fire(state, record, statistics))
                streaks[state.rule.name] = state.pending
            elif not state.idle:
                changed |= self._clean(state, record)
        if looked_at:
            self._awake = {position for position in looked_at if not self._order[position].idle}
        if changed:
            self.verdicts = tuple([state.verdict for state in self._order])
        return fired

    def _is_breached(self, position: int, record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        """Whether the rule's conditions hold, it applies here, and no other rule explains it away."""
        if not self._conditions[position](record, statistics):
            return False
        state = self._order[position]
        return state.judges(record.step, statistics) and not _inhibited(state)

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
