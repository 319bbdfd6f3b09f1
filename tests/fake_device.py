"""Stands for a GPU that runs behind the host: what ``torch.cuda`` has of events, and none of what waits.

Work is queued with :meth:`Device.work`, and is done when the test lets time go by on the device.
"""

from __future__ import annotations

from typing import Any


class Device:
    """A queue of work, with a clock of its own. It stands in for ``torch.cuda``."""

    def __init__(self) -> None:
        self.queued_s = 0.0
        """Its clock at the end of what is queued."""
        self.now_s = 0.0
        self.events = 0
        self.broken = False

    def work(self, seconds: float) -> None:
        """Queue work, for which nobody waits."""
        self.queued_s += seconds

    def run(self, seconds: float | None = None) -> None:
        """Let time go by; by default until all is done."""
        self.now_s = self.queued_s if seconds is None else min(self.queued_s, self.now_s + seconds)

    def Event(self, enable_timing: bool = False) -> Event:
        assert enable_timing
        self.events += 1
        return Event(self)

    def synchronize(self, *_: Any) -> None:
        raise AssertionError("nobody may wait for the device")


class Event:
    """As ``torch.cuda.Event``, but that what would wait fails."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.at_s = float("inf")

    def record(self, stream: Any = None) -> None:
        if self._device.broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        self.at_s = self._device.queued_s

    def query(self) -> bool:
        return self.at_s <= self._device.now_s

    def elapsed_time(self, end: Event) -> float:
        assert self.query(), "the device has not got there: the driver would refuse"
        assert end.query(), "the device has not got there: the driver would refuse"
        return (end.at_s - self.at_s) * 1e3

    def synchronize(self) -> None:
        raise AssertionError("nobody may wait for the device")
