"""A ``torch.profiler`` capture of the next steps, on the rank that was asked, as a Chrome trace.

A profile slows the steps that it covers, holds their events in memory and fills the disk; hence its bounds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel import faults
from rlhf_otel.catalogue.actions import ActionOutcome

MAX_STEPS: Final = 100
"""Steps that a profile covers at most."""
MAX_SECONDS: Final = 120.0
"""A profile ends with the step in which it reaches this age, however many were asked for."""
MAX_PROFILES: Final = 20
"""Profiles of one rank in one run."""
PAUSE_S: Final = 10.0
"""Between the end of a profile and the begin of the next."""
MAX_BYTES: Final = 512 << 20
"""Of all profiles in the directory; the oldest make room."""

Finish = Callable[[ActionOutcome, str], None]


class Capture(NamedTuple):
    """A profile that has begun, and the steps that it covers."""

    first: int
    last: int
    path: Path


class Profiling:
    """One capture at a time. Torch wants it begun and ended on the training thread."""

    def __init__(
        self,
        directory: Path,
        submit: Callable[..., object],
        rank: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``submit`` runs a call on a background thread: the trace is written there."""
        self._directory = directory
        self._submit = submit
        self._rank = rank
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted: tuple[int, Finish] | None = None
        self._profile: Any = None
        self._finish: Finish | None = None
        self._began_s = self._ended_s = float("-inf")
        self._count = 0
        self._captures: deque[Capture] = deque(maxlen=4)

    def ask(self, steps: int, finish: Finish) -> None:
        """Any thread: capture the next ``steps`` steps, then call ``finish``. Dropped while one is asked for, too soon
        after the last one, and when there were many."""
        with self._lock:
            refused = self._refused()
            if not refused:
                self._wanted = (min(steps, MAX_STEPS), finish)
                return
        finish(ActionOutcome.DROPPED, refused)

    def _refused(self) -> str:
        if self._wanted is not None or self._finish is not None:
            return "another profile is being captured"
        if self._count >= MAX_PROFILES:
            return f"this run has had {MAX_PROFILES} profiles"
        if self._clock() - self._ended_s < PAUSE_S:
            return f"the last profile ended less than {PAUSE_S:.0f} s ago"
        return ""

    @property
    def due(self) -> bool:
        """Whether :meth:`at_step_end` may have something to do."""
        return self._wanted is not None or self._profile is not None

    def at_step_end(self, step: int) -> None:
        """Training thread: begin or end a capture at this boundary."""
        if self._profile is not None:
            if step >= self._captures[-1].last or self._clock() - self._began_s > MAX_SECONDS:
                self._end(step)
        elif self._wanted is not None:
            self._begin(step)

    def path_of(self, step: int) -> str:
        """Where the profile that covers ``step`` is, or will be; empty without one."""
        return next((str(one.path) for one in tuple(self._captures) if one.first <= step <= one.last), "")

    def close(self, step: int) -> None:
        """Training has ended after ``step``: what was captured so far is kept."""
        if self._profile is not None:
            self._end(step)
        with self._lock:
            wanted, self._wanted = self._wanted, None
        if wanted is not None:
            wanted[1](ActionOutcome.DROPPED, "training ended before the profile began")

    def _begin(self, step: int) -> None:
        with self._lock:
            assert self._wanted is not None
            (steps, self._finish), self._wanted = self._wanted, None
            self._count += 1
        try:
            from torch.profiler import profile

            profiler = profile()  # every activity that this build of torch supports
            profiler.start()
            self._profile = profiler
        except Exception as error:  # noqa: BLE001 - faults logs it; another profiler may be active
            self._failed(error, "beginning a profile")
            return
        self._began_s = self._clock()
        path = self._directory / f"profile-rank{self._rank}-step-{step + 1}.json.gz"
        self._captures.append(Capture(step + 1, step + steps, path))

    def _end(self, step: int) -> None:
        profiler, self._profile = self._profile, None
        capture = self._captures[-1]._replace(last=min(step, self._captures[-1].last))
        self._captures[-1] = capture
        try:
            profiler.stop()
        except Exception as error:  # noqa: BLE001 - faults logs it
            self._failed(error, "ending a profile")
            return
        self._submit(self._write, profiler, capture.path)

    def _write(self, profiler: Any, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(path))
            _make_room(path)
        except Exception as error:  # noqa: BLE001 - faults logs it
            self._failed(error, "writing a profile")
            return
        self._done(ActionOutcome.DONE, str(path))

    def _failed(self, error: Exception, doing: str) -> None:
        faults.record("actions", error, doing)
        self._done(ActionOutcome.FAILED, f"{type(error).__name__}: {error}")

    def _done(self, outcome: ActionOutcome, detail: str) -> None:
        self._ended_s = self._clock()
        finish, self._finish = self._finish, None
        if finish is not None:
            finish(outcome, detail)


def _make_room(newest: Path) -> None:
    """Remove the oldest profiles of a directory until they are within bounds; raises OSError where ``newest`` alone
    is not."""
    profiles = sorted(newest.parent.glob("profile-*.json.gz"), key=lambda path: path.stat().st_mtime_ns)
    sizes = {path: path.stat().st_size for path in profiles}
    for path in [*(path for path in profiles if path != newest), newest]:
        if sum(sizes.values()) <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        del sizes[path]
    raise OSError(f"{newest} would have been larger than {MAX_BYTES >> 20} MiB: ask for fewer steps")
