"""The background thread: encoding, disk and network, away from training.

One queue, first in first out, bounded: when it is full, work is dropped and counted, never waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from rlhf_otel import faults

MAX_QUEUED: Final = 10_000
"""Jobs that may wait: minutes of steps, about 20 MB of records."""

Job = tuple[Callable[..., None], tuple[Any, ...]]


class Background:
    """Runs jobs in order on a daemon thread."""

    def __init__(self, limit: int = MAX_QUEUED) -> None:
        self._queue: SimpleQueue[Job | None] = SimpleQueue()
        self._limit = limit
        self._thread: threading.Thread | None = None
        self.dropped = 0

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return self._queue.qsize()

    def start(self) -> None:
        """Start the thread; jobs submitted before wait for it."""
        self._thread = threading.Thread(target=self._work, name="rlhf_otel-background", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., None], *arguments: Any) -> bool:
        """Queue a call; False when the queue is full and the call was dropped."""
        if self._queue.qsize() >= self._limit:
            self.dropped += 1
            return False
        self._queue.put((function, arguments))
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was queued so far has run; False when that took longer than ``timeout_s``."""
        if self._thread is None or not self._thread.is_alive():
            return False
        done = threading.Event()
        self._queue.put((done.set, ()))
        return done.wait(timeout_s)

    def stop(self, timeout_s: float) -> bool:
        """Run what is queued, then end the thread; False when it did not end in time."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            function, arguments = job
            try:
                function(*arguments)
            except Exception as error:
                faults.record("background", error, f"running {function.__qualname__}")
