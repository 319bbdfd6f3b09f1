"""What may hang, on a thread of its own: the SDK's span processor knows no bound for its flush and shutdown."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from rlhf_otel import faults

PAUSE_S: Final = 0.2
"""Between two requests at least: 5 a second however many steps are kept."""

_Errand = tuple[Callable[[], object], threading.Event]


class Errands:
    """A daemon thread that does one call after another.

    It exists from the start because Python 3.12 and later start no thread while the interpreter exits.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Errand | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="rlhf-otel-traces", daemon=True).start()

    def start(self, call: Callable[[], object]) -> threading.Event:
        """Call it there, after those before it; the event is set when it has returned."""
        done = threading.Event()
        self._calls.put((call, done))
        return done

    def stop(self) -> None:
        """End the thread once it has nothing left to do."""
        self._calls.put(None)

    def _work(self) -> None:
        while (errand := self._calls.get()) is not None:
            call, done = errand
            with faults.isolated("traces", "flushing or closing the span processor"):
                try:
                    call()
                finally:
                    done.set()


class Hurry:
    """Sends kept steps at once. The processor alone would hold them for 5 s, and a process that is killed would take them
    along."""

    def __init__(self, processor: Any, errands: Errands) -> None:
        self._processor = processor
        self._errands = errands
        self._waiting = False
        self._at_once = threading.Event()
        self._next_s = 0.0

    def send(self) -> None:
        """Send what is queued, after :data:`PAUSE_S` since the last time; what comes meanwhile goes with it."""
        if not self._waiting:
            self._waiting = True
            self._errands.start(self._send)

    def at_once(self) -> None:
        """Somebody waits: pause no more."""
        self._at_once.set()

    def _send(self) -> None:
        self._at_once.wait(max(0.0, self._next_s - time.monotonic()))
        self._at_once.clear()
        self._waiting = False  # what is queued from here on may miss this request
        self._processor.force_flush()
        self._next_s = time.monotonic() + PAUSE_S
