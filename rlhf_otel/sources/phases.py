"""Phase timings: clock readings of the step in progress, and totals over the run.

:class:`PhaseRecorder` is told when phases begin and end and only stores numbers. Phases of the training
thread nest; those of other threads (asynchronous reward functions on TRL's loop) hang under the phase that
the training thread was in when they began, may overlap, and may end out of order.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from time import perf_counter_ns
from typing import Final, NamedTuple

from rlhf_otel.catalogue.spans import PHASES
from rlhf_otel.records import PhaseInterval

MAX_PHASES: Final = 10_000
"""Phases kept of one step; of others only the time counts (a step may call 100,000 reward functions)."""

CONSISTENT_WITHIN: Final = 100
"""Attempts at reading the totals between two ends of phases."""

RawInterval = tuple[int, int, str, str, int, int, int, bool]
"""Own number, number of the parent (-1: the step), then as in :class:`PhaseInterval`: phase to end,
exclusive, failed."""


class OpenPhase(NamedTuple):
    """The phase that the training thread is in."""

    phase: str
    detail: str
    since_ns: int
    children_ns: int
    """Time of the phases inside it that have ended."""


class OpenInterval:
    """A phase that has begun."""

    __slots__ = ("children_ns", "detail", "number", "on_training_thread", "parent", "phase", "start_ns")

    def __init__(self, phase: str, detail: str, number: int, parent: int, on_training_thread: bool) -> None:
        self.phase = phase
        self.detail = detail
        self.number = number
        self.parent = parent
        self.on_training_thread = on_training_thread
        self.children_ns = 0
        self.start_ns = perf_counter_ns()


class PhaseRecorder:
    """Collects the phases of the step in progress, and totals over the run."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._stack: list[OpenInterval] = []
        self._finished: list[RawInterval] = []
        self._numbers = itertools.count()
        self._version = 0  # odd while a phase of the training thread moves from open to finished
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

    def seconds_until(self, now: int) -> dict[str, float]:
        """Exclusive seconds by phase until ``now``, with those of all open phases; from any thread.

        Of a phase that ends meanwhile the time counts once, not twice or never: a total that falls from one
        scrape to the next would be a restart to Prometheus.
        """
        for _ in range(CONSISTENT_WITHIN):
            version = self._version
            seconds, inner = self.seconds.copy(), now
            for opened in reversed(self._stack.copy()):
                seconds[opened.phase] += max(0, inner - opened.start_ns - opened.children_ns) * 1e-9
                inner = min(inner, opened.start_ns)
            if version == self._version and version % 2 == 0:
                break
            time.sleep(0)
        return seconds

    def begin(self, phase: str, detail: str = "") -> OpenInterval:
        """Begin a phase; pass what this returns to :meth:`end`."""
        stack = self._stack
        parent = stack[-1].number if stack else -1
        if threading.get_ident() != self._thread:
            return OpenInterval(phase, detail, next(self._numbers), parent, False)
        opened = OpenInterval(phase, detail, next(self._numbers), parent, True)
        stack.append(opened)
        return opened

    def end(self, opened: OpenInterval, failed: bool = False) -> None:
        """End a phase. Phases inside it that are still open (left by an exception) end with it."""
        now = perf_counter_ns()
        if not opened.on_training_thread:
            self._close(opened, now, failed)
            return
        stack = self._stack
        if not stack or (stack[-1] is not opened and opened not in stack):
            return
        self._version += 1
        while (top := stack.pop()) is not opened:
            self._close(top, now, True)
        self._close(opened, now, failed)
        self._version += 1

    def _close(self, opened: OpenInterval, now: int, failed: bool) -> None:
        start, phase = opened.start_ns, opened.phase
        duration = now - start
        exclusive = duration - opened.children_ns
        if opened.on_training_thread:
            if self._stack:
                self._stack[-1].children_ns += duration
            self.seconds[phase] += exclusive * 1e-9
        self.counts[phase] += 1
        if phase == "reward_function":
            totals, detail = self.function_seconds, opened.detail
            totals[detail] = totals.get(detail, 0.0) + duration * 1e-9
        if len(self._finished) < MAX_PHASES:
            self._finished.append(
                (opened.number, opened.parent, phase, opened.detail, start, now, exclusive, failed)
            )

    def take_step(self) -> list[RawInterval]:
        """The phases that have ended since the last call, in the order of their ends; start afresh.

        A phase that is still open (another thread's) belongs to the step in which it ends.
        """
        finished, self._finished = self._finished, []
        return finished


def nest(finished: Iterable[RawInterval]) -> list[PhaseInterval]:
    """Phases in the order of their beginnings, parents before children, parents by position.

    What an absent phase contained (one that is still open, or was beyond the cap) hangs under the step
    itself.
    """
    position: dict[int, int] = {}
    nested: list[PhaseInterval] = []
    for number, parent, phase, detail, start, end, exclusive, failed in sorted(finished):
        position[number] = len(nested)
        nested.append(PhaseInterval(phase, detail, start, end, position.get(parent, -1), exclusive, failed))
    return nested
