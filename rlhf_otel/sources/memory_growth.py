"""Growth of memory with the steps of a run, told apart from jumps."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

Point = tuple[int, float]
"""Bytes, and when: in seconds or steps."""

START_UP_STEPS: Final = 20
"""Steps in which allocation (optimizer state, caches, compiled code) is no growth."""
BUCKET_STEPS: Final = 2
MIN_POINTS: Final = 10
MAX_POINTS: Final = 31


def cautious_slope(points: Sequence[Point]) -> float:
    """The lower third of the slopes between all pairs of points (a Theil-Sen estimator that errs downwards).

    A jump, however high, lifts about half of the pairs and so is no growth, while a staircase is. At most
    :data:`MAX_POINTS` points should be given: the cost grows with their square.
    """
    slopes = sorted(
        (later - earlier) / (end - start)
        for index, (earlier, start) in enumerate(points)
        for later, end in points[index + 1 :]
        if end > start
    )
    return slopes[(len(slopes) - 1) // 3]


class StepGrowth:
    """Growth over the latest samples as a share of the lowest, for one quantity in bytes."""

    def __init__(self) -> None:
        self._points: deque[Point] = deque(maxlen=MAX_POINTS)
        self._first: int | None = None
        self._growth: float | None = None

    def add(self, step: int, value: int) -> float | None:
        """Take a new sample, the run having reached ``step``; the growth, None while it is not known."""
        if self._first is None:
            self._first = step
        if step < self._first + START_UP_STEPS:
            return None
        if self._points and step < self._points[-1][1] + BUCKET_STEPS:
            lowest, at = self._points[-1]
            self._points[-1] = (min(lowest, value), at)
            return self._growth
        self._points.append((value, float(step)))
        if len(self._points) >= MIN_POINTS:
            self._growth = self._estimate()
        return self._growth

    def _estimate(self) -> float:
        span = self._points[-1][1] - self._points[0][1]
        lowest = max(1, min(value for value, _ in self._points))
        return cautious_slope(tuple(self._points)) * span / lowest
