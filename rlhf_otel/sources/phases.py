"""Phase timings: clock readings of the step in progress, and totals over the run.

:class:`PhaseRecorder` is told when phases begin and end and only stores clock readings; what they add up to is
worked out elsewhere: on the background thread for a step, on the scraping thread for the totals. Phases of the
training thread nest; those of other threads (asynchronous reward functions on TRL's loop) hang under the phase
that the training thread was in when they began, may overlap, and may end out of order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from threading import get_ident
from time import perf_counter_ns
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from rlhf_otel.catalogue.spans import ABSORBING, HEARD_AS, PHASES
from rlhf_otel.records import DeviceTimes, PhaseInterval, make_tuple

MAX_PHASES: Final = 10_000
"""Phases kept of one step; of others only the time counts (a step may call 100,000 reward functions)."""

OpenInterval = tuple[str, str, int, Any, bool]
"""A phase that has begun: its name, the host's name for it, ``perf_counter_ns`` at its start, the phase around
it (an ``OpenInterval`` or None), and whether it is the training thread's. The same phase is the same object.
Plain tuples here: a named one takes four times as long to make."""


_Ended = list[Any]
"""What has ended, three entries each, which are added at once and make no object that another thread would free:
a phase, ``perf_counter_ns`` at its end, and whether it was left by an exception (None instead where it is in no step's
phases); or, where a step ends, None, the step's number, and the start of the innermost open phase."""

_MANY: Final = 3 * MAX_PHASES
"""Entries of what has ended that are too many to pile up."""


class Interval(NamedTuple):
    """An ended phase, with the time that no phase inside it on the same thread accounts for."""

    opened: OpenInterval
    end_ns: int
    failed: bool
    exclusive_ns: int


class PhaseTotals(NamedTuple):
    """Over the run so far."""

    seconds: dict[str, float]
    """Phase to exclusive seconds on the training thread; an evaluation and a checkpoint have all that is inside."""
    counts: dict[str, int]
    """Phase to the times that it ended, on any thread."""
    function_seconds: dict[str, float]
    """Reward function to wall seconds; those of asynchronous ones overlap."""
    longest: dict[str, float]
    """Evaluation and checkpoint to the seconds that the longest of them took; without those of which none ended."""


class Elsewhere(Protocol):
    """Is told of phases of other threads than the training thread, on those. Must not raise."""

    def begun(self, opened: OpenInterval) -> None:
        """A phase has begun."""

    def ended(self, opened: OpenInterval) -> None:
        """A phase has ended."""


class PhaseRecorder:
    """Collects the phases of the step in progress, and totals over the run."""

    device_seconds: Mapping[str, float] = MappingProxyType({})
    """Phase to the seconds that a device took for it; nothing where no device has a clock."""

    __slots__ = (
        "_accounting", "_accounts", "_ended", "_steps", "_stopped", "_thread", "absorbed_s",
        "elsewhere", "innermost", "left_out",
    )  # fmt: skip

    def __init__(self) -> None:
        self._thread = get_ident()
        self.innermost: OpenInterval | None = None
        """Innermost open phase of the training thread, a linked list; safe to ask from any thread, and to be set here."""
        self._ended: _Ended = []
        self._steps = 0
        self._accounts = _Accounts()
        self._accounting = threading.Lock()
        self._stopped = False
        self.elsewhere: Elsewhere | None = None
        self.left_out = 0
        """Phases of the step that was taken last that were too many to be kept."""
        self.absorbed_s = 0.0
        """Seconds of evaluations and checkpoints until the end of the step that was taken last."""

    def adopt_thread(self) -> None:
        """Call the current thread the training thread."""
        self._thread = get_ident()

    # --- on the threads that train

    @property
    def open_phase(self) -> str:
        """Innermost open phase of the training thread, or nothing; safe to ask from any thread."""
        innermost = self.innermost
        return innermost[0] if innermost is not None else ""

    def begin(self, phase: str, detail: str = "") -> OpenInterval:
        """Begin a phase; pass what this returns to :meth:`end`."""
        if get_ident() == self._thread:
            self.innermost = opened = (phase, detail, perf_counter_ns(), self.innermost, True)
            return opened
        opened = (phase, detail, perf_counter_ns(), self.innermost, False)
        if self.elsewhere is not None:
            self.elsewhere.begun(opened)
        return opened

    def end(self, opened: OpenInterval, failed: bool = False) -> None:
        """End a phase. Phases inside it that are still open (left by an exception) end with it."""
        ended = self._ended
        if self._stopped:
            return
        if self.innermost is opened:
            # In this order: whoever looks first at what is open and then at what has ended misses nothing.
            ended += (opened, perf_counter_ns(), failed)
            self.innermost = opened[3]
        elif not opened[4]:
            ended += (opened, perf_counter_ns(), failed)
            if self.elsewhere is not None:
                self.elsewhere.ended(opened)
        elif any(phase is opened for phase in _outwards(self.innermost)):
            self._end_with_inner(opened, failed)
        if len(ended) > _MANY:
            self._account()

    def _end_with_inner(self, opened: OpenInterval, failed: bool) -> None:
        now, phase = perf_counter_ns(), self.innermost
        while phase is not None:
            self._ended += (phase, now, failed if phase is opened else True)
            self.innermost = phase[3]
            if phase is opened:
                return
            phase = phase[3]

    def end_step(self) -> int:
        """A step ends; pass what this returns to :meth:`take_step`.

        A phase that is still open belongs to the step in which it ends.
        """
        innermost = self.innermost
        self._steps = number = self._steps + 1
        self._ended += (None, number, innermost[2] if innermost is not None else None)
        return number

    def stop(self) -> None:
        """The run has ended: phases that end from now on count no more, and those still open stay open."""
        self._stopped = True

    def add(self, phase: str, start: int, end: int) -> None:
        """Count a stretch of the training thread that is over: in the totals alone, and in no step's phases.

        The phase around it is without it. Times are those of ``perf_counter_ns``.
        """
        if not self._stopped:
            self._ended += ((phase, "", start, None, True), end, None)

    # --- elsewhere

    def take_step(self, number: int) -> list[Interval]:
        """The phases that ended in a step, in the order of their ends; those of steps before are forgotten."""
        with self._accounting:
            self._accounts.add(self._ended)
            steps = self._accounts.steps
            while steps and steps[0][0] < number:
                steps.popleft()
            if not steps or steps[0][0] != number:
                self.left_out = 0
                return []
            _, intervals, self.left_out, self.absorbed_s = steps.popleft()
            return intervals

    def read_device(self) -> None:
        """Nothing: no device has a clock here."""

    def take_device(self, number: int) -> DeviceTimes | None:
        """None: no device has a clock here."""
        return None

    def totals(self, now: int) -> PhaseTotals:
        """Totals until ``now``, with the time of the phases that are open; from any thread.

        Of a phase that ends meanwhile the time counts once, not twice or never: a total that falls from one
        scrape to the next would be a restart to Prometheus.
        """
        with self._accounting:
            innermost = self.innermost
            ended = self._accounts.add(self._ended)
            still_open = [opened for opened in _outwards(innermost) if id(opened) not in ended]
            return self._accounts.totals(still_open, now)

    def whereabouts(self) -> tuple[str, int]:
        """The phase that the training thread is in, as people are told it, and ``perf_counter_ns`` when it entered
        it; from any thread.

        An evaluation or a checkpoint is that as a whole, and what nobody has a name for counts as the phase around
        it. Between phases it is "other", since the last of them ended.
        """
        opened = _told(self.innermost)
        if opened is not None:
            return opened
        with self._accounting:
            self._accounts.add(self._ended)
            return "other", self._accounts.last_end

    def _account(self) -> None:
        """Don't let what has ended pile up in one long step; but never wait for a scrape."""
        if self._accounting.acquire(blocking=False):
            try:
                self._accounts.add(self._ended)
            finally:
                self._accounting.release()


class _Accounts:
    """What ended phases add up to. One thread at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {phase.name: 0.0 for phase in PHASES}
        self.steps: deque[tuple[int, list[Interval], int, float]] = deque()
        """Of steps that have ended the number, the phases that are kept, how many are not, and what evaluations and
        checkpoints had taken by its end."""
        self.longest: dict[str, float] = {}
        self.last_end = 0
        """When the training thread last left a phase."""
        self._counts: dict[str, int] = {phase.name: 0 for phase in PHASES}
        self._function_seconds: dict[str, float] = {}
        self._step: list[Interval] = []
        self._beyond = 0
        self._told: dict[str, float] = {}
        """Totals of the last scrape, below which none may fall."""
        self._unclaimed: list[tuple[int, int]] = []
        """Start and duration of the training thread's phases whose enclosing phase, if any, has not ended."""

    def add(self, ended: _Ended) -> set[int]:
        """Take what has ended; returns the identities of the phases taken."""
        entries = ended[:]
        del ended[: len(entries)]  # there may be more by now
        taken: set[int] = set()
        for opened, end, failed in zip(*[iter(entries)] * 3, strict=True):
            if opened is None:
                number, innermost = end, failed
                absorbed = sum(self.seconds[phase] for phase in ABSORBING)
                self.steps.append((number, self._step, self._beyond, absorbed))
                self._step, self._beyond = [], 0
                self._settle(innermost)
            else:
                taken.add(id(opened))
                self._add(opened, end, failed)
        return taken

    def _add(self, opened: OpenInterval, end: int, failed: bool | None) -> None:
        phase, detail, start, _, on_training_thread = opened
        duration = exclusive = end - start
        if on_training_thread:
            self.last_end = max(self.last_end, end)
            if phase in ABSORBING:
                self.longest[phase] = max(self.longest.get(phase, 0.0), duration * 1e-9)
            exclusive -= self._claim(start)
            self._unclaimed.append((start, duration))
            self.seconds[_charged(opened)] += exclusive * 1e-9
        if failed is None:
            return
        self._counts[phase] += 1
        if phase == "reward_function":
            totals = self._function_seconds
            totals[detail] = totals.get(detail, 0.0) + duration * 1e-9
        if len(self._step) < MAX_PHASES:
            self._step.append(Interval(opened, end, failed, exclusive))
        else:
            self._beyond += 1

    def _settle(self, innermost: int | None) -> None:
        """At the end of a step: what no open phase will claim is forgotten, what the innermost will is one sum."""
        if innermost is None:
            self._unclaimed.clear()
        elif claimed := self._claim(innermost):
            self._unclaimed.append((innermost, claimed))

    def _claim(self, start: int) -> int:
        """Time of the phases that began at ``start`` or later: phases end before the one around them."""
        unclaimed, claimed = self._unclaimed, 0
        while unclaimed and unclaimed[-1][0] >= start:
            claimed += unclaimed.pop()[1]
        return claimed

    def totals(self, still_open: list[OpenInterval], now: int) -> PhaseTotals:
        """With the phases of the training thread that are open, from the innermost to the outermost."""
        seconds, inner = self.seconds.copy(), now
        unclaimed = self._unclaimed.copy()
        for opened in still_open:
            start, within = opened[2], 0
            while unclaimed and unclaimed[-1][0] >= start:
                begun, duration = unclaimed.pop()
                within += duration if begun < inner else 0
            seconds[_charged(opened)] += max(0, inner - start - within) * 1e-9
            inner = min(inner, start)
        # A phase may have read the clock for its end before it was seen here as open, and longer.
        self._told = {phase: max(spent, self._told.get(phase, 0.0)) for phase, spent in seconds.items()}
        return PhaseTotals(
            self._told.copy(), self._counts.copy(), self._function_seconds.copy(), self.longest.copy()
        )


def _charged(opened: OpenInterval) -> str:
    """The phase that pays for a phase's own time: itself, or the outermost absorbing one around it."""
    pays = opened[0]
    for around in _outwards(opened[3]):
        if around[0] in ABSORBING:
            pays = around[0]
    return pays


def _told(innermost: OpenInterval | None) -> tuple[str, int] | None:
    """The open phase that people are told of, and its start; None where there is none with a name."""
    told: tuple[str, int] | None = None
    for opened in _outwards(innermost):
        name = HEARD_AS.get(opened[0], opened[0])
        if name in ABSORBING or told is None or told[0] in ("other", name):
            told = name, opened[2]
    return told


def _outwards(innermost: OpenInterval | None) -> Iterator[OpenInterval]:
    """A phase and those around it."""
    while innermost is not None:
        yield innermost
        innermost = innermost[3]


def nest(intervals: Iterable[Interval]) -> list[PhaseInterval]:
    """Phases in the order of their beginnings, parents before children, parents by position.

    What an absent phase contained (one that is still open, or was beyond the cap) hangs under the step
    itself.
    """
    position: dict[int, int] = {}
    nested: list[PhaseInterval] = []
    for opened, end, failed, exclusive in sorted(intervals, key=_by_beginning):
        phase, detail, start, parent, _ = opened
        position[id(opened)] = len(nested)
        inside = position.get(id(parent), -1) if parent is not None else -1
        nested.append(make_tuple(PhaseInterval, (phase, detail, start, end, inside, exclusive, failed)))
    return nested


def _by_beginning(interval: Interval) -> tuple[int, int]:
    return interval.opened[2], -interval.end_ns
