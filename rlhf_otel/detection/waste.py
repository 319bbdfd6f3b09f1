"""What of a step's time was in vain: rollouts without a gradient, updates that were lost, stalls.

Times are wall seconds of rank 0. Each second counts for one reason at most: a rollout can only be without gradient,
an update only lost, and a stall is what a step took beyond the usual one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from rlhf_otel.catalogue.spans import ABSORBING, ROLLOUT, UPDATE, Waste
from rlhf_otel.records import PhaseInterval, StepRecord


def account(record: StepRecord, usual_s: float | None, stall_threshold_s: float) -> None:
    """Note in ``record`` what it spent on its rollout, and what was in vain.

    ``usual_s`` is the usual duration of its kind of step, None while that is not known: a first step may compile.
    """
    record.rollout_s = seconds_in(ROLLOUT, record.phases)
    dead = record.values.get("zero_advantage_groups", 0.0)
    wasted = {Waste.NO_GRADIENT: record.rollout_s * dead}
    if record.update_lost:
        wasted[Waste.LOST_UPDATE] = seconds_in(UPDATE, record.phases)
    working_s = record.duration_s - seconds_in(ABSORBING, record.phases)
    if usual_s is not None and working_s > stall_threshold_s:
        wasted = {Waste.STALL: working_s - usual_s}
    record.wasted = {reason.value: seconds for reason, seconds in wasted.items() if seconds > 0}


def seconds_in(names: Container[str], phases: Sequence[PhaseInterval]) -> float:
    """Wall seconds in the outermost phases with one of these names, none of which is within an evaluation or a
    checkpoint, unless those are meant. Overlapping ones, of other threads, count once."""
    covered, until = 0, 0
    for phase in phases:  # in the order of their beginnings
        if phase.phase not in names or (phase.parent >= 0 and _within(phase, phases)):
            continue
        covered += max(0, phase.end_ns - max(phase.start_ns, until))
        until = max(until, phase.end_ns)
    return covered * 1e-9


def _within(phase: PhaseInterval, phases: Sequence[PhaseInterval]) -> bool:
    return any(around.phase in ABSORBING for around in _around(phase, phases))


def _around(phase: PhaseInterval, phases: Sequence[PhaseInterval]) -> Iterator[PhaseInterval]:
    while phase.parent >= 0:
        phase = phases[phase.parent]
        yield phase


class WasteTotals:
    """Sums over the steps of a run, from its records or from its journal."""

    def __init__(self) -> None:
        self.rollout_s = 0.0
        self.truncated_tokens = 0.0
        self.seconds: dict[str, float] = {}
        """Reason to seconds."""
        self.devices = 0
        """GPUs of the run that waited; 0 where it has none, or they are not known."""

    def add_step(self, rollout_s: float, wasted: Mapping[str, float], truncated_tokens: float) -> None:
        """Count a step."""
        self.rollout_s += rollout_s
        self.truncated_tokens += truncated_tokens
        self.seconds = dict(self.seconds)  # a scrape may hold the one before
        for reason, seconds in wasted.items():
            self._add(reason, seconds)

    def add_restart(self, lost_s: float) -> None:
        """Count what the attempt before did in vain. Its steps are counted, or not, by whoever has them."""
        if lost_s > 0:
            self.seconds = dict(self.seconds)
            self._add(Waste.RESTART.value, lost_s)

    def _add(self, reason: str, seconds: float) -> None:
        self.seconds[reason] = self.seconds.get(reason, 0.0) + seconds

    def add_record(self, record: Mapping[str, Any]) -> None:
        """Count a record of a journal; those that are of no concern here are passed over."""
        if record["type"] == "step":
            self.add_step(
                record.get("rollout_s", 0.0),
                record.get("wasted_s", {}),
                record.get("truncated_tokens", 0.0),
            )
        elif record["type"] == "run" and not record.get("continued"):
            self.add_restart(record.get("lost_s", 0.0))
        elif record["type"] == "ledger":
            self.devices = record.get("gpus", 0)

    def sentences(self) -> Iterator[str]:
        """What was in vain, for people; nothing where nothing was."""
        dead = self.seconds.get(Waste.NO_GRADIENT.value, 0.0)
        if dead and self.rollout_s:
            yield f"{dead / self.rollout_s:.0%} of rollout time produced no gradient ({self._spent(dead)})"
        for reason, said in _SAID.items():
            if seconds := self.seconds.get(reason, 0.0):
                yield f"{self._spent(seconds)} {said}"
        if self.truncated_tokens >= 1:
            yield f"{self.truncated_tokens:,.0f} tokens were of completions that were cut off"

    def _spent(self, seconds: float) -> str:
        text = f"{seconds:,.1f} s"
        return f"{text}, {seconds * self.devices:,.0f} GPU-seconds" if self.devices else text


_SAID: Mapping[str, str] = {
    Waste.LOST_UPDATE.value: "went into updates that were skipped or dropped",
    Waste.STALL.value: "were lost to stalls",
    Waste.RESTART.value: "were of an earlier attempt, after the checkpoint that was gone on from",
}
