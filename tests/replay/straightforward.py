"""The detector and the drift statistic in the plainest form: nothing compiled, nothing skipped.

What ``detection/`` does for speed must not change a verdict, so that it is compared with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
from rlhf_otel.detection.conditions import statistic_of
from rlhf_otel.records import Statistics, StepRecord


@dataclass
class State:
    rule: Rule
    pending: int = 0
    clean: int = 0
    since: int = 0
    active: bool = False
    last_ns: int = 0
    fired: list[tuple[int, int]] = field(default_factory=list)
    """First step in breach and step of firing."""


class PlainDetector:
    """Which rules fire at which steps."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self.states = {rule.name: State(rule) for rule in rules if rule.rule_class is not RuleClass.OUTSIDE}

    def observe(self, record: StepRecord, statistics: dict[str, Statistics]) -> list[tuple[str, int, int]]:
        judged: set[str] = set()
        begun: list[tuple[str, int, int]] = []

        def judge(name: str) -> None:
            if name in judged or name not in self.states:
                return
            judged.add(name)
            state = self.states[name]
            for other in state.rule.inhibited_by:
                judge(other)
            if self._judge(state, record, statistics):
                begun.append((name, state.since, record.step))

        for name in self.states:
            judge(name)
        return begun

    def _judge(self, state: State, record: StepRecord, statistics: dict[str, Statistics]) -> bool:
        rule = state.rule
        explained = any(name in self.states and self.states[name].active for name in rule.inhibited_by)
        early = bool(rule.after_step) and record.step <= rule.after_step
        if explained or early or not all(holds(c, record, statistics) for c in rule.conditions):
            self._clean(state, record)
            return False
        state.clean = 0
        state.pending += 1
        if state.pending == 1:
            state.since = record.step
        if state.pending < rule.steps:
            return False
        state.last_ns = record.time_ns
        begins, state.active = not state.active, True
        if begins:
            state.since -= record.lag.get(rule.signal, 0)
        return begins

    @staticmethod
    def _clean(state: State, record: StepRecord) -> None:
        state.pending = 0
        state.clean += 1
        quiet_ns = record.time_ns - state.last_ns
        if state.active and state.clean >= LATCH_STEPS and quiet_ns >= LATCH_SECONDS * 1e9:
            state.active = False

    @property
    def active(self) -> set[str]:
        return {name for name, state in self.states.items() if state.active}


def holds(condition: Condition, record: StepRecord, statistics: dict[str, Statistics]) -> bool:
    """Whether a condition holds at a step."""
    if isinstance(condition, NonFinite):
        return any(name in record.nonfinite for name in condition.signals)
    assert isinstance(condition, Comparison)
    value, known = record.values.get(condition.signal), statistics.get(condition.signal)
    if condition.statistic is Statistic.VALUE:
        found = value
    elif known is None or (condition.statistic in OF_THIS_STEP and value is None):
        return False
    elif condition.statistic is Statistic.VALUE_RATIO:
        if known.baseline is None or known.baseline <= 0:
            return False
        found, threshold = value, condition.threshold * known.baseline
        return found is not None and (found > threshold if condition.op == ">" else found < threshold)
    else:
        found = statistic_of(known, condition.statistic)
    if found is None:
        return False
    return found > condition.threshold if condition.op == ">" else found < condition.threshold


OF_THIS_STEP = (Statistic.ZSCORE, Statistic.VALUE_RATIO)
"""Meaningless at a step that lacks the signal."""


class PlainDrift:
    """CUSUM of the forecast's error as ``detection/drift.py`` defines it."""

    def __init__(self) -> None:
        from rlhf_otel.detection import drift

        self._ = drift
        self.count, self.total, self.moment = 0, 0.0, 0.0
        self.first = self.second = self.noise = self.last = self.up = self.down = 0.0

    def observe(self, value: float) -> float | None:
        slow = 2.0 / (self._.SLOW_STEPS + 1)
        lag = (1 - slow) / slow
        change, self.last = abs(value - self.last) / self._.MOVING_RANGE, value
        if self.count < self._.WARM_UP:
            self._learn_line(value, change, lag)
            return None
        forecast = self.first + (self.first - self.second) * (1 + 1 / lag)
        noise = max(self.noise, 1e-12)
        error = min(max((value - forecast) / noise, -self._.CLIP), self._.CLIP)
        self.up = min(max(0.0, self.up + error - self._.ALLOWANCE), self._.LARGEST)
        self.down = min(max(0.0, self.down - error - self._.ALLOWANCE), self._.LARGEST)
        self.first += slow * (forecast + error * noise - self.first)
        self.second += slow * (self.first - self.second)
        self.noise += slow * (min(change, self._.CLIP * noise) - self.noise)
        return self.up if self.up >= self.down else -self.down

    def _learn_line(self, value: float, change: float, lag: float) -> None:
        if self.count:
            self.noise += (change - self.noise) / self.count
        self.total, self.moment = self.total + value, self.moment + self.count * value
        self.count += 1
        if self.count == self._.WARM_UP:
            n = self._.WARM_UP
            middle = (n - 1) / 2
            slope = (self.moment - middle * self.total) * 12 / (n * (n**2 - 1))
            level = self.total / n + slope * middle
            self.first, self.second = level - lag * slope, level - 2 * lag * slope
