"""Which steps are worth a trace.

A backend full of identical healthy traces explains nothing, so the choice is made after the step, when its
outcome is known. One in K healthy steps is kept by step number, so that all ranks keep the same ones without
talking to each other, and so that the choice is known before the step begins (:meth:`KeepPolicy.samples`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from rlhf_otel.errors import ConfigurationError
from rlhf_otel.exporters.recent_steps import RecentSteps
from rlhf_otel.records import Anomaly, StepRecord

HEALTHY_ONE_IN: Final = 100
STEPS_BEFORE_ANOMALY: Final = 3


class Reason(StrEnum):
    """Why a step was kept; the first that applies, in this order, but for the steps before an anomaly."""

    FAILED = "failed"
    ANOMALY = "anomaly"
    SLOW = "slow"
    PROFILED = "profiled"
    FIRST = "first"
    HEALTHY = "one_in_k"
    BEFORE_ANOMALY = "before_anomaly"


KNOWN_EVERYWHERE: Final = frozenset({Reason.FIRST, Reason.HEALTHY})
"""Reasons for which every rank keeps the same steps by itself."""


class KeepPolicy:
    """Chooses the steps to export; O(1) a step."""

    def __init__(
        self,
        one_in: int = HEALTHY_ONE_IN,
        before: int = STEPS_BEFORE_ANOMALY,
        remembered: int = 0,
    ) -> None:
        """Keep one in ``one_in`` healthy steps (0: none) and the ``before`` steps just before an anomaly.

        ``remembered``: how many of the last steps can still be asked for (:meth:`take`); at least ``before``.
        """
        _require_count("one_in", one_in)
        _require_count("before", before)
        self._one_in = one_in
        self._before = before
        self._recent = RecentSteps(max(before, remembered))
        self._started = False
        self.kept: dict[str, int] = {reason.value: 0 for reason in Reason}
        """Steps kept so far, by reason."""

    def samples(self, step: int) -> bool:
        """Whether ``step`` is kept even if nothing is the matter with it; the same on every rank."""
        return self._one_in > 0 and step % self._one_in == 0

    def offer(
        self, record: StepRecord, slow: bool, anomalies: Sequence[Anomaly], failed: bool
    ) -> list[tuple[StepRecord, str]]:
        """The records to export now, each with the reason: those before an anomaly, then ``record`` itself.

        ``slow`` is the caller's verdict on the step's duration against the baseline of its kind.
        ``anomalies`` are those that fire at this step, not those still active from before: a long one must
        not keep every step.
        """
        reason = self._reason(record, slow, anomalies, failed)
        self._started = True
        chosen = [
            (just_before, Reason.BEFORE_ANOMALY.value)
            for just_before in (self._recent.take_last(self._before) if anomalies else ())
        ]
        if reason is not None:
            chosen.append((record, reason.value))
        # A kept step takes a place too: "just before" counts steps, not whichever records are still at hand.
        self._recent.add(record, given_out=reason is not None)
        for _, why in chosen:
            self.kept[why] += 1
        return chosen

    def _reason(
        self, record: StepRecord, slow: bool, anomalies: Sequence[Anomaly], failed: bool
    ) -> Reason | None:
        if failed:
            return Reason.FAILED
        if anomalies:
            return Reason.ANOMALY
        if slow:
            return Reason.SLOW
        if record.profile:
            return Reason.PROFILED
        if not self._started:
            return Reason.FIRST
        return Reason.HEALTHY if self.samples(record.step) else None

    def take(self, step: int, reason: str) -> StepRecord | None:
        """A step that another rank keeps for ``reason``; None if it is kept already or no longer remembered."""
        record = self._recent.take(step)
        if record is not None:
            self.kept[reason] = self.kept.get(reason, 0) + 1
        return record

    def remembers(self, step: int) -> bool:
        """Whether the step is among those remembered, kept or not."""
        return self._recent.knows(step)


def _require_count(key: str, value: int) -> None:
    if value < 0:
        raise ConfigurationError(f"{key}={value!r}: allowed is an integer of 0 or more")
