"""Watches for stalls, on a thread of its own: when the open step takes longer than it may, stacks are taken.

While the interpreter answers, this thread takes them itself. While somebody holds the GIL it cannot, so that it
has the stacks taken by a timer that needs no interpreter, and puts that off again and again: what the timer wrote
is found when the GIL is free. The timer lags by two looks, so that it comes first only where this thread cannot.
Nothing here runs on the training thread, and no file is written under the GIL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Final, NamedTuple

from rlhf_otel import faults
from rlhf_otel.catalogue.spans import HEARD_AS
from rlhf_otel.exporters.stacks import StackFile, stacks_of_all_threads
from rlhf_otel.records import OpenPhase
from rlhf_otel.stalls import timer

MOST_LOOKS_S: Final = 1.0
"""Between two looks, at most. Each puts the timer off, in some 30 microseconds."""
LEAST_LOOKS_S: Final = 0.01
STOP_S: Final = 2.0
"""How long the end of a run waits for this thread: a file system may hang."""


class Sight(NamedTuple):
    """A look at the step in progress."""

    step: int
    """Its number."""
    began_ns: int
    """``perf_counter_ns`` at its beginning."""
    limit_s: float
    """How long it may take, as it is now."""
    open_phase: OpenPhase | None
    phase_seconds: Mapping[str, float]
    """Phase to its seconds of the whole run so far."""

    def taken_s(self, now_ns: int) -> float:
        """How long it has taken."""
        return (now_ns - self.began_ns) * 1e-9


class Stall(NamedTuple):
    """A step that takes longer than it may."""

    step: int
    phase: str
    phase_s: float
    """Time in this phase until now."""
    seconds: float
    """Time of the step until now."""
    limit_s: float
    gil_held: bool
    """Whether the interpreter could do nothing else meanwhile."""
    path: str
    """Where the stacks are; empty where there are none."""


class StallWatch:
    """Watches one run from :meth:`start` to :meth:`close`."""

    def __init__(
        self,
        see: Callable[[], Sight | None],
        tell: Callable[[Stall], None],
        floor_s: float,
        stacks: Callable[[int], StackFile] | None,
    ) -> None:
        """``see`` looks at the step in progress, None where it is no matter how long it takes; ``tell`` is called at
        each stall; ``stacks`` opens their file, knowing the training thread; None where none are wanted."""
        self.latest = ""
        """The stacks of the last stall."""
        self._see = see
        self._tell = tell
        self._looks_s = min(MOST_LOOKS_S, max(LEAST_LOOKS_S, floor_s / 10))
        self._open = stacks
        self._file: StackFile | None = None
        self._training_thread = threading.get_ident()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._told_of = 0
        """Beginning of the last step that was told of."""
        self._armed: Sight | None = None
        self._due_ns = 0
        """When the timer writes."""

    def start(self) -> None:
        """Begin; on the training thread."""
        self._training_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._work, name="rlhf_otel-stalls", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End soon; waits for nothing."""
        self._stopping.set()

    def close(self) -> None:
        """End, within a bound. Harmless when called again."""
        self.stop()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(STOP_S)

    def stacks(self) -> str:
        """The present stacks of all threads; from any thread."""
        return stacks_of_all_threads(self._training_thread)

    # --- on the thread

    def _work(self) -> None:
        if self._open is not None:
            with faults.isolated("background", "opening the file of stacks beside the journal"):
                self._file = self._open(self._training_thread)
        while not self._stopping.wait(self._looks_s):
            with faults.isolated("background", "watching for stalls"):
                self._look()
        with faults.isolated("background", "ending the watch for stalls"):
            self._leave()

    def _look(self) -> None:
        sight, now = self._see(), perf_counter_ns()
        if self._armed is not None and self._file is not None and self._file.has_grown():
            timer.disarm()  # which waits until all of it is there
            self._found(self._file.appended(), sight, now)
        if sight is None:
            self._disarm()
            return
        over_s = sight.taken_s(now) - sight.limit_s
        if over_s <= 0:
            self._arm(sight, -over_s)
        elif sight.began_ns != self._told_of:
            self._disarm()
            self._told_of = sight.began_ns
            phase = sight.open_phase or OpenPhase("other", 0.0)
            self._stalled(sight, phase, now, self._take(sight, phase, now))

    def _arm(self, sight: Sight, left_s: float) -> None:
        if self._file is not None:
            self._armed = sight
            due_s = left_s + 2 * self._looks_s
            self._due_ns = perf_counter_ns() + int(due_s * 1e9)
            timer.arm(due_s, self._file.descriptor)

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed = None
            timer.disarm()

    def _take(self, sight: Sight, phase: OpenPhase, now_ns: int) -> str:
        """Take the stacks; returns where they are."""
        if self._open is None:
            return ""
        self.latest = f"{_said(sight, phase, now_ns)}\n{self.stacks()}"
        if self._file is not None:
            with faults.isolated("background", "writing stacks beside the journal"):
                self._file.append(f"\n{self.latest}")
        return self._path

    def _found(self, written: str, sight: Sight | None, now_ns: int) -> None:
        """The timer was faster, since the GIL was held: tell of the step that was in progress then."""
        armed, self._armed = self._armed, None
        assert armed is not None
        assert self._file is not None
        phase = _grown(armed.phase_seconds, sight.phase_seconds) if sight is not None else None
        phase = phase or armed.open_phase or OpenPhase("other", 0.0)
        if sight is not None and sight.began_ns <= self._due_ns:
            armed = sight  # where steps are shorter than the time between looks, others ended before the GIL was held
        said = f"{_said(armed, phase, now_ns)}; the interpreter was held until now"
        self.latest = f"{said}\n{written}"
        with faults.isolated("background", "writing stacks beside the journal"):
            self._file.append(f"\nThese stacks: {said}\n")
        if sight is None or armed.began_ns == self._told_of:
            return
        if sight.began_ns == armed.began_ns and sight.taken_s(now_ns) <= sight.limit_s:
            return  # an evaluation has begun since the timer was set, which may take longer
        self._told_of = armed.began_ns
        self._stalled(armed, phase, now_ns, self._path, gil_held=True)

    @property
    def _path(self) -> str:
        return str(self._file.path) if self._file is not None and self._file.path is not None else ""

    def _stalled(
        self, sight: Sight, phase: OpenPhase, now_ns: int, path: str, gil_held: bool = False
    ) -> None:
        seconds = sight.taken_s(now_ns)
        self._tell(Stall(sight.step, phase.phase, phase.seconds, seconds, sight.limit_s, gil_held, path))

    def _leave(self) -> None:
        self._disarm()
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _said(sight: Sight, phase: OpenPhase, now_ns: int) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return (
        f"{moment}: step {sight.step} has taken {sight.taken_s(now_ns):.1f} s, and may take {sight.limit_s:.1f} s at most; "
        f"it has been in {phase.phase} for {phase.seconds:.1f} s"
    )


def _grown(before: Mapping[str, float], after: Mapping[str, float]) -> OpenPhase | None:
    """The phase that took most of the time between two looks."""
    grown = {phase: seconds - before.get(phase, 0.0) for phase, seconds in after.items()}
    longest = max(grown, key=grown.__getitem__, default=None)
    return OpenPhase(HEARD_AS.get(longest, longest), grown[longest]) if longest is not None else None
