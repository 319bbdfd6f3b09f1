"""The rewards of a run: what its monitor finds out, in the steps and in the journal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.records import StepRecord
from rlhf_otel.reward_model.judgement import Judgement
from rlhf_otel.reward_model.monitor import RewardModelMonitor

TOLD_S: Final = 60.0
"""Seconds between records in the journal, at least."""


class RunRewards:
    """On the background thread, but for :attr:`latest`."""

    def __init__(self, monitor: RewardModelMonitor, write: Callable[[dict[str, Any]], object]) -> None:
        """``write`` adds a record to the journal."""
        self._monitor = monitor
        self._write = write
        self._told: Judgement | None = None
        self._told_s = float("-inf")

    @property
    def latest(self) -> Judgement:
        """The monitor's latest judgement."""
        return self._monitor.latest

    def observe(self, record: StepRecord) -> None:
        """Add the worst of the watched rewards to a step, and tell the journal now and then."""
        with faults.isolated("sources", "adding what is known of rewards"):
            values, details = self.latest.signals()
            record.values.update(values)
            record.details.update(details)
            if self.latest is not self._told and time.monotonic() - self._told_s >= TOLD_S:
                self._tell(record.step)

    def end(self, step: int) -> None:
        """The run ends: tell what is known at last."""
        with faults.isolated("sources", "judging rewards at the end of a run"):
            self._monitor.judge_all()
            if self.latest.rewards:
                self._tell(step)

    def _tell(self, step: int) -> None:
        self._told, self._told_s = self.latest, time.monotonic()
        self._write({"type": "reward_model", "step": step, "time": time.time(), **self._told.as_dict()})
