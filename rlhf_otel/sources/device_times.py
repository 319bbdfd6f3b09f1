"""When the device did what the host began: CUDA events around each phase, read once the device has passed them.

The host runs ahead of a GPU, so that its clock charges a backward pass to whatever waits for it next. An event is a mark
in the device's queue: recording one waits for nothing, and neither does asking whether the device has got there. The
times of a step are therefore known only a little later, mostly at the end of the next one. All of that is done on the
training thread: a question from another thread, while a CUDA graph is being captured, would spoil the capture.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Protocol

from rlhf_otel import faults
from rlhf_otel.catalogue.spans import ON_THE_DEVICE
from rlhf_otel.records import DeviceTimes
from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder

MAX_MARKED: Final = 500
"""Phases of a step with marks, the first ones: as many as get spans."""
MAX_WAITING: Final = 4
"""Steps whose marks may wait to be passed. The device is never as far behind, but for one that hangs."""


class DeviceClock(Protocol):
    """Marks in the queue of a device. Nothing here waits for it."""

    def mark(self) -> Any:
        """Put a mark behind the work that has been queued so far."""

    def passed(self, mark: Any) -> bool:
        """Whether the device has got there."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Time between two marks that it has passed."""

    def reuse(self, marks: list[Any]) -> None:
        """These are needed no longer."""


class CudaClock:
    """CUDA events on the current stream."""

    def __init__(self, cuda: Any) -> None:
        """``cuda`` is ``torch.cuda``."""
        self._cuda = cuda
        self._spare: list[Any] = []

    def mark(self) -> Any:
        """Record an event."""
        event = self._spare.pop() if self._spare else self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def passed(self, mark: Any) -> bool:
        """Ask the event."""
        return bool(mark.query())

    def seconds(self, begin: Any, end: Any) -> float:
        """By the device's own clock."""
        return float(begin.elapsed_time(end)) / 1e3

    def reuse(self, marks: list[Any]) -> None:
        """Keep them for the next steps."""
        self._spare = [*self._spare, *marks][: 2 * MAX_MARKED]


def clock_of(trainer: Any) -> DeviceClock | None:
    """The clock of the device that this rank trains on; None where that is no GPU."""
    device = getattr(getattr(trainer, "accelerator", None), "device", None)
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return CudaClock(cuda) if getattr(device, "type", "") == "cuda" and cuda is not None else None


_Marked = tuple[OpenInterval, Any, Any]
"""A phase of the training thread, and the marks at its begin and end."""


class DevicePhaseRecorder(PhaseRecorder):
    """A recorder that marks the phases of the training thread on the device, too."""

    __slots__ = ("_begun", "_clock", "_marked", "_of_step", "_waiting", "device_seconds")

    def __init__(self, clock: DeviceClock) -> None:
        super().__init__()
        self._clock: DeviceClock | None = clock
        self._begun: dict[int, tuple[OpenInterval, Any]] = {}
        """Phases that are open, by identity, with their marks."""
        self._marked: list[_Marked] = []
        self._waiting: deque[tuple[DeviceTimes, list[_Marked]]] = deque()
        self._of_step: dict[int, DeviceTimes] = {}
        self.device_seconds: Mapping[str, float] = dict.fromkeys(ON_THE_DEVICE, 0.0)

    def begin(self, phase: str, detail: str = "") -> OpenInterval:
        """Begin a phase; pass what this returns to :meth:`end`."""
        opened = super().begin(phase, detail)
        if opened[4] and len(self._marked) + len(self._begun) < MAX_MARKED and (mark := self._mark()):
            self._begun[id(opened)] = opened, mark
        return opened

    def end(self, opened: OpenInterval, failed: bool = False) -> None:
        """End a phase. One that ends with another around it gets no time."""
        begun = self._begun.pop(id(opened), None)
        if begun is not None and (mark := self._mark()):
            self._marked.append((opened, begun[1], mark))
        super().end(opened, failed)

    def end_step(self) -> int:
        """A step ends; look for what the device has passed."""
        number = super().end_step()
        times = self._of_step[number] = DeviceTimes()
        self._waiting.append((times, self._marked))
        self._marked = []
        self._forget_closed()
        self.read_device()
        return number

    def read_device(self) -> None:
        """Read the times of the steps that the device has finished with, on the training thread."""
        while self._waiting:
            times, marked = self._waiting[0]
            if not self._read(times, marked) and len(self._waiting) <= MAX_WAITING:
                return
            self._waiting.popleft()
            times.known = True

    def take_device(self, number: int) -> DeviceTimes | None:
        """The device times of a step, which may be known only later. In the order of the steps."""
        for older in [step for step in self._of_step.copy() if step < number]:
            del self._of_step[older]
        return self._of_step.pop(number, None)

    def _read(self, times: DeviceTimes, marked: list[_Marked]) -> bool:
        """Whether the device has passed all of the marks, whose times are read then."""
        clock = self._clock
        if clock is None:
            return True
        try:
            if not all(clock.passed(mark) for _, *marks in reversed(marked) for mark in reversed(marks)):
                return False
            times.seconds = {opened[:3]: clock.seconds(begin, end) for opened, begin, end in marked}
            clock.reuse([mark for _, *marks in marked for mark in marks])
        except Exception as error:  # noqa: BLE001 - faults logs it
            self._give_up(error)
            return True
        self._add(times.seconds)
        return True

    def _add(self, seconds: Mapping[tuple[str, str, int], float]) -> None:
        totals = dict(self.device_seconds)
        for (phase, _, _), spent in seconds.items():
            if phase in totals:
                totals[phase] += spent
        self.device_seconds = totals  # another thread may be reading the one before

    def _mark(self) -> Any:
        if self._clock is None:
            return None
        try:
            return self._clock.mark()
        except Exception as error:  # noqa: BLE001 - faults logs it
            self._give_up(error)
        return None

    def _give_up(self, error: Exception) -> None:
        """A clock that fails once is not asked again."""
        self._clock = None
        self._begun.clear()
        faults.handle("phases", error, "timing phases on the device, which ends here")

    def _forget_closed(self) -> None:
        """Phases that ended with the one around them, as an exception leaves them."""
        if not self._begun:
            return
        phase, still_open = self.innermost, set()
        while phase is not None:
            still_open.add(id(phase))
            phase = phase[3]
        self._begun = {key: begun for key, begun in self._begun.items() if key in still_open}
