"""How long a step usually takes, so that a stall can be told from a slow run.

Of each kind the latest steps are kept, and the 99th percentile of their times is what is usual at most. A stall
enters as no more than what was then called one: a single one leaves the next one to be found, and a run that has
become slower for good is taken as it is after a few steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Final

WINDOW: Final = 256
"""Steps of a kind that are kept: the 99th percentile of them leaves out the two longest."""
PERCENTILE: Final = 0.99


class UsualSteps:
    """Times of the latest steps, by kind. About a microsecond a step, and 4 KiB a kind."""

    def __init__(self) -> None:
        self._times: dict[str, _Times] = {}

    @property
    def slowest_s(self) -> float | None:
        """Usual seconds, at most, of the kind of step that takes longest; None before the first step."""
        return max((times.usual_s for times in self._times.values()), default=None)

    def observe(self, kind: str, seconds: float) -> None:
        """A step has ended that took this long. The first of a kind, which may compile, counts until the second."""
        times = self._times.get(kind)
        if times is None or times.provisional:
            provisional = times is None
            times = self._times[kind] = _Times(provisional)
        times.add(seconds)


class _Times:
    """A window of times, in the order of their coming and in that of their size."""

    def __init__(self, provisional: bool) -> None:
        self.provisional = provisional
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    @property
    def usual_s(self) -> float:
        return self._sorted[math.ceil(PERCENTILE * len(self._sorted)) - 1]

    def add(self, seconds: float) -> None:
        self._latest.append(seconds)
        insort(self._sorted, seconds)
        if len(self._latest) > WINDOW:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
