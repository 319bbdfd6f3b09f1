"""Saving and stopping, at the same step on every rank.

Rank 0 decides, and a rank that acted alone would crash or hang the others. So rank 0's training thread tells
the c10d store at the end of step r which step is meant: the next multiple of :data:`LOOK_EVERY` after r. The
others look there at the end of each such step. They cannot miss it: they finish that step only after its
gradients were reduced, in which rank 0 takes part only after it has told. Both are one exchange with the
store's server, and happen only where such an action is configured; training waits for one at most
``exchange.LIMIT_S``, and not again while it is unanswered. What rank 0 could not tell in that time it does not do.
"""

from __future__ import annotations

import itertools
import json
import threading
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.actions.exchange import LIMIT_S, Exchange
from rlhf_otel.catalogue.actions import ActionKind
from rlhf_otel.errors import TrainingStopped
from rlhf_otel.sources.agreement import Agreement

LOOK_EVERY: Final = 5
"""Steps between two looks at the store; a stop comes at most this many steps late."""

_runs = itertools.count()


def next_run() -> str:
    """A prefix for keys that is the same on all ranks, which begin the same runs in the same order."""
    return f"steering/{next(_runs)}"


class Steering:
    """What rank 0 asks for becomes the trainer's ``control`` flags, on all ranks at once."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        agreement: Agreement | None,
        run: str,
        limit_s: float = LIMIT_S,
    ) -> None:
        """Without an ``agreement`` only a job of one process can be steered."""
        self._rank = rank
        self._agreement = agreement if world_size > 1 else None
        self.possible = world_size == 1 or agreement is not None
        self._run = run
        self._exchange = Exchange(limit_s)
        self._asked: dict[str, str] = {}
        self._lock = threading.Lock()
        self._due: dict[int, dict[str, str]] = {}
        self._stopping: int | None = None
        self.stopped_because = ""
        """Why the run was told to stop; empty while it was not."""

    def ask(self, action: ActionKind, why: str) -> None:
        """Rank 0, any thread: save or stop as soon as all ranks can."""
        with self._lock:
            self._asked[action.value] = why

    def at_step_end(self, step: int, control: Any) -> None:
        """Training thread, every rank. Raises TrainingStopped in a trainer that ignored the flag."""
        if self._stopping is not None and step > self._stopping:
            raise TrainingStopped(self.stopped_because)
        with faults.isolated("actions", "agreeing on what to do with training"):
            self._steer(step, control)

    def _steer(self, step: int, control: Any) -> None:
        due = self._take() if self._agreement is None else self._agreed(step, self._agreement)
        if ActionKind.SAVE in due:
            control.should_save = True
        if ActionKind.STOP in due:
            control.should_training_stop = True
            self._stopping, self.stopped_because = step, due[ActionKind.STOP]

    def _agreed(self, step: int, agreement: Agreement) -> dict[str, str]:
        looking = step % LOOK_EVERY == 0
        if self._rank != 0:
            said = self._exchange(lambda: agreement.said(self._key(step))) if looking else None
            return dict(json.loads(said)) if said else {}
        due = self._due.pop(step, {})
        asked = self._take()
        if asked:
            meant = step - step % LOOK_EVERY + LOOK_EVERY
            told = {**self._due.get(meant, {}), **asked}
            self._exchange(lambda: agreement.tell(self._key(meant), json.dumps(told)))
            self._due[meant] = told
        return due

    def _take(self) -> dict[str, str]:
        if not self._asked:
            return {}
        with self._lock:
            asked, self._asked = self._asked, {}
        return asked

    def _key(self, step: int) -> str:
        return f"{self._run}/{step}"
