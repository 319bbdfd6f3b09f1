"""A ``torch.profiler`` capture of the steps after an anomaly, on the rank that asked, as a Chrome trace.

A profile slows the steps that it covers; that is why it is opt-in and has a limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_otel import faults
from rlhf_otel.catalogue.actions import ActionOutcome

Finish = Callable[[ActionOutcome, str], None]


class Profiling:
    """One capture at a time. Torch wants it begun and ended on the training thread."""

    def __init__(self, directory: Path, submit: Callable[..., object]) -> None:
        """``submit`` runs a call on a background thread: the trace is written there."""
        self._directory = directory
        self._submit = submit
        self._lock = threading.Lock()
        self._wanted: tuple[int, Finish] | None = None
        self._profile: Any = None
        self._finish: Finish | None = None
        self._first = self._last = 0

    def ask(self, steps: int, finish: Finish) -> None:
        """Any thread: capture the next ``steps`` steps, then call ``finish``. Dropped while one is asked for."""
        with self._lock:
            if self._wanted is None and self._finish is None:
                self._wanted = (steps, finish)
                return
        finish(ActionOutcome.DROPPED, "another profile is being captured")

    def at_step_end(self, step: int) -> None:
        """Training thread: begin or end a capture at this boundary."""
        if self._profile is not None and step >= self._last:
            self._end()
        elif self._profile is None and self._wanted is not None:
            self._begin(step)

    def close(self) -> None:
        """Training has ended: what was captured so far is kept."""
        if self._profile is not None:
            self._end()
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted[1](ActionOutcome.DROPPED, "training ended before the profile began")

    def _begin(self, step: int) -> None:
        with self._lock:
            assert self._wanted is not None
            (steps, self._finish), self._wanted = self._wanted, None
        self._first, self._last = step + 1, step + steps
        try:
            from torch.profiler import profile

            profiler = profile()  # every activity that this build of torch supports
            profiler.start()
            self._profile = profiler
        except Exception as error:  # noqa: BLE001 - faults logs it; another profiler may be active
            self._failed(error, "beginning a profile")

    def _end(self) -> None:
        profiler, self._profile = self._profile, None
        try:
            profiler.stop()
        except Exception as error:  # noqa: BLE001 - faults logs it
            self._failed(error, "ending a profile")
            return
        self._submit(
            self._write, profiler, self._directory / f"profile-step-{self._first}-{self._last}.json.gz"
        )

    def _write(self, profiler: Any, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
        except Exception as error:  # noqa: BLE001 - faults logs it
            self._failed(error, "writing a profile")
            return
        self._done(ActionOutcome.DONE, str(path))

    def _failed(self, error: Exception, doing: str) -> None:
        faults.record("actions", error, doing)
        self._done(ActionOutcome.FAILED, f"{type(error).__name__}: {error}")

    def _done(self, outcome: ActionOutcome, detail: str) -> None:
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(outcome, detail)
