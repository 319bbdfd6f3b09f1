"""The background thread: judging, encoding, disk and network, away from training.

Work is handed over without waking the thread, which looks for it every :data:`POLL_S`: a wake-up would cost
the training thread more than everything else that it does here. The queue is bounded: when it is full, work
is dropped and counted, never waited for.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from time import sleep
from typing import Any, Final

from rlhf_otel import faults

MAX_QUEUED: Final = 10_000
"""Jobs that may wait: minutes of steps, about 20 MB of records."""
POLL_S: Final = 0.25
"""Several short steps are done in one go, which finds in the caches what the first of them needed."""
WAY_S: Final = 20e-6
"""Pause between jobs, in which the training thread gets the interpreter should it wait for it: a thread that computes
keeps it for 5 ms (``sys.getswitchinterval``), and would do several jobs meanwhile."""

Job = tuple[Callable[..., object], tuple[Any, ...]]


class Background:
    """Runs jobs in order on a daemon thread."""

    def __init__(self, limit: int = MAX_QUEUED, name: str = "rlhf_otel-background") -> None:
        self._jobs: deque[Job] = deque()
        self._limit = limit
        self._name = name
        self._thread: threading.Thread | None = None
        self._wake = threading.Lock()  # held; released to wake the thread
        self._wake.acquire()
        self._stopping = False
        self._hurried = False
        """Somebody waits for the jobs to be done."""
        self.dropped = 0

    @property
    def queued(self) -> int:
        """Jobs that wait."""
        return len(self._jobs)

    def start(self) -> None:
        """Start the thread; jobs submitted before wait for it."""
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Queue a call; False when the queue is full, or nobody works on it any more, and the call was dropped."""
        if len(self._jobs) >= self._limit or self._stopping:
            self.dropped += 1
            return False
        self._jobs.append((function, arguments))
        return True

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was queued so far has run; False when that took longer than ``timeout_s``."""
        if self._thread is None or not self._thread.is_alive():
            return False
        done = threading.Event()
        self._jobs.append((done.set, ()))
        self._hurried = True
        self._rouse()
        try:
            return done.wait(timeout_s)
        finally:
            self._hurried = self._stopping

    def stop(self, timeout_s: float) -> bool:
        """Run what is queued, then end the thread; False when it did not end in time."""
        if self._thread is None:
            return True
        self._stopping = self._hurried = True
        if self._thread is threading.current_thread():  # a job of its own asks: it ends after that
            return False
        self._rouse()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _rouse(self) -> None:
        with contextlib.suppress(RuntimeError):  # roused already, by another thread or a signal handler
            self._wake.release()

    def _work(self) -> None:
        while True:
            last_round = self._stopping
            while self._jobs:
                function, arguments = self._jobs.popleft()
                try:
                    function(*arguments)
                except Exception as error:  # noqa: BLE001 - faults logs it
                    faults.record(
                        "background", error, f"running {getattr(function, '__qualname__', function)}"
                    )
                del function, arguments  # while this thread waits it keeps nothing alive
                if self._jobs and not self._hurried:
                    sleep(WAY_S)
            if last_round:
                return
            self._wake.acquire(timeout=POLL_S)
