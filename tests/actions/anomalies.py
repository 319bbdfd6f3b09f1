"""Anomalies, and somebody who notes how their actions turned out."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

from rlhf_otel.catalogue.actions import ActionKind, ActionOutcome
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.records import Anomaly, RunIdentity

IDENTITY = RunIdentity("run-7", attempt=2, team="alignment")

KL_RUNAWAY = Anomaly(
    "KLRunaway", Severity.CRITICAL, "kl_per_token", 5.0, 0.1, 4.0, "baseline_ratio", 50.0, 90, 100, 10**18,
    "The policy leaves the reference.", "Stop.",
)  # fmt: skip
LOSS_SPIKE = replace(KL_RUNAWAY, rule="LossSpike", severity=Severity.WARNING, signal="loss")


class Told:
    """How actions turned out."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, str, str, str]] = []
        self._changed = threading.Condition()

    def __call__(self, anomaly: Anomaly, kind: ActionKind, outcome: ActionOutcome, detail: str) -> None:
        with self._changed:
            self.outcomes.append((anomaly.rule, kind.value, outcome.value, detail))
            self._changed.notify_all()

    def wait(self, count: int, within_s: float = 60.0) -> list[tuple[str, str, str, str]]:
        """The first ``count`` outcomes."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.outcomes) >= count, within_s), self.outcomes
            return self.outcomes[:count]

    def until(self, outcome: tuple[str, str, str, str], within_s: float = 60.0) -> None:
        """Wait for this outcome."""
        with self._changed:
            assert self._changed.wait_for(lambda: outcome in self.outcomes, within_s), self.outcomes


class Control:
    """Flags as transformers' ``TrainerControl`` has them."""

    def __init__(self) -> None:
        self.should_save = False
        self.should_training_stop = False

    @property
    def flags(self) -> tuple[Any, Any]:
        return self.should_save, self.should_training_stop
