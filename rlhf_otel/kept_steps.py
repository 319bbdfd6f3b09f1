"""The steps that rank 0 keeps as traces, told to the other ranks, so that these keep the same ones.

What makes a step worth a trace is known on rank 0 alone: only it has the signals of all ranks. It writes the last
:data:`TOLD` of its choices under one key of the c10d store, from its background thread; the others look there from
theirs, at most once in :data:`LOOK_S`, and take those steps from the records that they hold. The store holds one small
value however long the run, and no thread waits for another rank, but for the last word of rank 0 at the end.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Final

from rlhf_otel import faults
from rlhf_otel.actions.exchange import Exchange
from rlhf_otel.sources.agreement import Agreement

TOLD: Final = 64
"""Choices that can be read at any time: all that rank 0 makes between two looks, unless it keeps more than that."""
LOOK_S: Final = 1.0
LAST_WORD_S: Final = 2.0
"""How long the others wait at their end for rank 0 to end as well."""
PAUSE_S: Final = 0.05

Choice = tuple[int, str]
"""A step, and why it is kept."""


class Telling:
    """Rank 0's side. On the background thread."""

    def __init__(self, agreement: Agreement, key: str) -> None:
        self._store = _Store(agreement, key)
        self._choices: deque[Choice] = deque(maxlen=TOLD)

    def tell(self, choices: list[Choice], ended: bool = False) -> None:
        """Add choices to those that can be read; ``ended``: there will be no more."""
        self._choices.extend(choices)
        if choices or ended:
            self._store.write(json.dumps({"kept": list(self._choices), "ended": ended}))


class Following:
    """The side of another rank. On the background thread."""

    def __init__(self, agreement: Agreement, key: str) -> None:
        self._store = _Store(agreement, key)
        self._seen: frozenset[int] = frozenset()
        self._next_look_s = 0.0
        self._ended = False

    def look(self) -> list[Choice]:
        """What rank 0 has chosen since the last look; nothing when that was less than a moment ago."""
        now = time.monotonic()
        if now < self._next_look_s:
            return []
        self._next_look_s = now + LOOK_S
        return self._fresh()

    def last_word(self, patience_s: float = LAST_WORD_S) -> list[Choice]:
        """What rank 0 has still to say, once it has ended too or after ``patience_s``."""
        self._store.forsaken = True
        deadline, choices = time.monotonic() + patience_s, self._fresh()
        while not self._ended and not self._store.lost and time.monotonic() < deadline:
            time.sleep(PAUSE_S)
            choices += self._fresh()
        return choices

    def _fresh(self) -> list[Choice]:
        text = self._store.read()
        if text is None:
            return []
        said = json.loads(text)
        seen, self._seen = self._seen, frozenset(step for step, _ in said["kept"])
        self._ended = said["ended"]
        return [(step, reason) for step, reason in said["kept"] if step not in seen]


class _Store:
    """One key of the job's store. When it does not answer, that is one fault, and nobody asks it again."""

    def __init__(self, agreement: Agreement, key: str) -> None:
        self._agreement = agreement
        self._key = key
        self._exchange = Exchange()
        self.lost = False
        self.forsaken = False
        """Whether it may have ended with rank 0, whose process can be the one that serves it: that is no fault."""

    def read(self) -> str | None:
        """What it holds, if anything, and if it answers."""
        if self.lost:
            return None
        try:
            return self._exchange(lambda: self._agreement.said(self._key))
        except Exception as error:  # noqa: BLE001 - told once
            self._lose(error)
        return None

    def write(self, text: str) -> None:
        """Let it hold this."""
        if self.lost:
            return
        try:
            self._exchange(lambda: self._agreement.tell(self._key, text))
        except Exception as error:  # noqa: BLE001 - told once
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        self.lost = True
        if not self.forsaken:
            faults.record(
                "traces", error, "asking the job's store: now each rank keeps its own choice of steps"
            )
