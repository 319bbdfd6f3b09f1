"""Phase timings: clock readings from TRL's profiling seam and from a few thin wrappers.

:class:`PhaseRecorder` is told when phases begin and end and only stores numbers. Phases of the training thread nest;
those of other threads (asynchronous reward functions on TRL's loop) hang under the phase that the training thread
was in when they began, may overlap, and may end out of order.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns
from typing import Final, NamedTuple

from rlhf_otel.catalogue.spans import PHASES
from rlhf_otel.records import PhaseInterval

MAX_PHASES: Final = 10_000
"""Phases kept of one step; of further ones only the time counts (a step may call reward functions 100,000 times)."""


class OpenPhase(NamedTuple):
    """The phase that the training thread is in."""

    phase: str
    detail: str
    since_ns: int
    children_ns: int
    """Time of the phases inside it that have ended."""


class OpenInterval:
    """A phase that has begun."""

    __slots__ = ("children_ns", "detail", "index", "on_training_thread", "parent", "phase", "start_ns")

    def __init__(self, phase: str, detail: str, start_ns: int, index: int, parent: int, on_thread: bool) -> None:
        self.phase, self.detail, self.start_ns = phase, detail, start_ns
        self.index, self.parent, self.on_training_thread = index, parent, on_thread
        self.children_ns = 0


class PhaseRecorder:
    """Collects the phases of the step in progress, and totals over the run."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._stack: list[OpenInterval] = []
        self._intervals: list[PhaseInterval | OpenInterval] = []
        self._lock = threading.Lock()  # only phases of other threads take it against each other
        self.seconds: dict[str, float] = {phase.name: 0.0 for phase in PHASES}
        self.counts: dict[str, int] = {phase.name: 0 for phase in PHASES}
        self.function_seconds: dict[str, float] = {}

    def adopt_thread(self) -> None:
        """Call the current thread the training thread."""
        self._thread = threading.get_ident()

    @property
    def open_phase(self) -> OpenPhase | None:
        """Innermost open phase of the training thread; safe to ask from any thread."""
        stack = self._stack
        try:
            top = stack[-1]
        except IndexError:
            return None
        return OpenPhase(top.phase, top.detail, top.start_ns, top.children_ns)

    def begin(self, phase: str, detail: str = "") -> OpenInterval:
        """Begin a phase; pass what this returns to :meth:`end`."""
        stack = self._stack
        parent = stack[-1].index if stack else -1
        on_thread = threading.get_ident() == self._thread
        opened = OpenInterval(phase, detail, 0, -1, parent, on_thread)
        if len(self._intervals) < MAX_PHASES:
            with self._lock:
                opened.index = len(self._intervals)
                self._intervals.append(opened)
        if on_thread:
            stack.append(opened)
        opened.start_ns = perf_counter_ns()
        return opened

    def end(self, opened: OpenInterval, failed: bool = False) -> None:
        """End a phase. Phases inside it that are still open (left by an exception) end with it."""
        now = perf_counter_ns()
        if opened.on_training_thread:
            if opened not in self._stack:
                return
            while self._stack[-1] is not opened:
                self._close(self._stack.pop(), now, True)
            self._stack.pop()
        self._close(opened, now, failed)

    def _close(self, opened: OpenInterval, now: int, failed: bool) -> None:
        duration = now - opened.start_ns
        exclusive = max(0, duration - opened.children_ns)
        if opened.on_training_thread:
            if self._stack:
                self._stack[-1].children_ns += duration
            self.seconds[opened.phase] += exclusive / 1e9
        self.counts[opened.phase] += 1
        if opened.phase == "reward_function":
            self.function_seconds[opened.detail] = self.function_seconds.get(opened.detail, 0.0) + duration / 1e9
        if 0 <= opened.index < len(self._intervals):
            self._intervals[opened.index] = PhaseInterval(
                opened.phase, opened.detail, opened.start_ns, now, opened.parent, exclusive, failed
            )

    def take_step(self) -> list[PhaseInterval]:
        """The finished phases of the step that ends now, parents before children; start afresh.

        A phase that is still open (an evaluation around the step, another thread's) belongs to the step in which
        it ends; what it contains then hangs under the step itself.
        """
        intervals, self._intervals = self._intervals, []
        kept: dict[int, int] = {-1: -1}
        finished: list[PhaseInterval] = []
        for index, interval in enumerate(intervals):
            if isinstance(interval, PhaseInterval):
                kept[index] = len(finished)
                finished.append(interval._replace(parent=kept.get(interval.parent, -1)))
            else:
                interval.index, interval.parent = -1, -1
        for opened in self._stack:
            opened.index = len(self._intervals)
            self._intervals.append(opened)
        return finished
