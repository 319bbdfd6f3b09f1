"""The actions of one run: what its pipeline, its training thread and its scrapes ask of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from rlhf_otel.actions.dispatch import Dispatch
from rlhf_otel.actions.steering import Steering, next_run
from rlhf_otel.catalogue.actions import ActionKind, ActionOutcome
from rlhf_otel.exporters.journal_records import action_record
from rlhf_otel.profiling.of_a_run import RunProfiling
from rlhf_otel.records import Anomaly, RunIdentity
from rlhf_otel.settings import Settings
from rlhf_otel.sources.agreement import Agreement

CLOSE_S: Final = 5.0
"""How long the end of a run waits for webhooks and functions: what made it fail should still be told."""

_STEERED: Final = frozenset({ActionKind.SAVE, ActionKind.STOP})


class RunActions:
    """Rank 0 answers anomalies; the other ranks only follow where it steers training."""

    def __init__(
        self,
        settings: Settings,
        identity: Callable[[], RunIdentity],
        profiling: RunProfiling,
        note: Callable[[dict[str, Any]], object],
        describe: Callable[[Anomaly], str],
    ) -> None:
        """``note`` adds a record to the journal."""
        rank, world_size = identity().rank, identity().world_size
        self._note = note
        self._steers = any(not _STEERED.isdisjoint(entry.do) for entry in settings.actions)
        self.steering = Steering(
            rank, world_size, Agreement.of_this_job() if self._steers else None, next_run()
        )
        secret = settings.webhook_secret
        self._dispatch = Dispatch(
            settings.actions if rank == 0 else (),
            identity=identity,
            steering=self.steering,
            profile=lambda steps, finish: profiling.ask(steps, "action", finish),
            describe=describe,
            tell=self._tell,
            secret=secret.get_secret_value() if secret is not None else "",
        )
        self.answer = self._dispatch.answer

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Actions so far, by kind and outcome."""
        return self._dispatch.counts

    def at_step_end(self, step: int, control: Any) -> None:
        """Training thread. Raises TrainingStopped in a trainer that ignored the flag."""
        if self._steers:
            self.steering.at_step_end(step, control)

    def close(self, flush: Callable[[float], object]) -> None:
        """Hand on what is under way, within a bound; ``flush`` waits for the background thread."""
        deadline = time.monotonic() + CLOSE_S
        flush(CLOSE_S)
        self._dispatch.close(max(0.0, deadline - time.monotonic()))

    def _tell(self, anomaly: Anomaly, kind: ActionKind, outcome: ActionOutcome, detail: str) -> None:
        self._note(action_record(anomaly, kind, outcome, detail))
