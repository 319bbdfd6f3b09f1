"""Why a step was slow: the time of each phase beside what the phase usually takes in steps of its kind.

A phase's own time is what no phase inside it accounts for, so that the times of a step sum to its duration.
The usual is the median over the steps of the same rank and kind; a phase that a step lacks counts as 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

from rlhf_otel.exporters.chrome_trace import TracedPhase, TracedStep

OTHER: Final = "other"
"""The part of a step that is in no phase."""

Times = dict[str, float]
"""Phase, with the host's name for it where it has one, to microseconds."""


class Explanation(NamedTuple):
    """A step beside the usual one of its rank and kind; all times in microseconds."""

    step: TracedStep
    usual_us: float
    phases: list[tuple[str, float, float]]
    """Phase, its own time, and its usual one; by the excess, largest first."""

    @property
    def excess_us(self) -> float:
        """How much longer than usual the step took."""
        return self.step.duration_us - self.usual_us


def explain(steps: Sequence[TracedStep]) -> list[Explanation]:
    """Every step explained, by its excess over the usual step of its rank and kind, largest first."""
    groups: dict[tuple[int, str], list[tuple[TracedStep, Times]]] = defaultdict(list)
    for step in steps:
        groups[step.rank, step.kind].append((step, own_times(step)))
    explained = [one for group in groups.values() for one in _explain(group)]
    return sorted(explained, key=lambda one: -one.excess_us)


def _explain(group: Sequence[tuple[TracedStep, Times]]) -> Iterable[Explanation]:
    names = {name for _, times in group for name in times}
    usual = {name: median(times.get(name, 0.0) for _, times in group) for name in names}
    duration = median(step.duration_us for step, _ in group)
    for step, times in group:
        yield Explanation(step, duration, _compared(times, usual))


def _compared(times: Mapping[str, float], usual: Mapping[str, float]) -> list[tuple[str, float, float]]:
    rows = [(name, times.get(name, 0.0), usual[name]) for name in usual]
    return sorted((row for row in rows if row[1] or row[2]), key=lambda row: row[2] - row[1])


def own_times(step: TracedStep) -> Times:
    """Each phase's own time. Those of phases that overlap (asynchronous reward functions) may sum to more."""
    inside: dict[int, list[TracedPhase]] = defaultdict(list)
    for phase in step.phases:
        inside[phase.parent].append(phase)
    times: Times = defaultdict(float)
    for position, phase in enumerate(step.phases):
        name = f"{phase.name} {phase.detail}" if phase.name == "reward_function" else phase.name
        times[name] += max(0.0, phase.duration_us - _covered(inside[position]))
    times[OTHER] += max(0.0, step.duration_us - _covered(inside[-1]))
    return dict(times)


def _covered(phases: Sequence[TracedPhase]) -> float:
    """Time that at least one of these phases takes."""
    covered, until = 0.0, float("-inf")
    for phase in sorted(phases, key=lambda phase: phase.start_us):
        end = phase.start_us + phase.duration_us
        covered += max(0.0, end - max(phase.start_us, until))
        until = max(until, end)
    return covered
