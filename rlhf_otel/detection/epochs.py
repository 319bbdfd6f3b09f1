"""Statistics of each signal over an epoch: mean, standard deviation, least, largest, and whether it has a trend.

The trend is the least-squares line through at most :data:`MOST_BUCKETS` means of steps in a row (the method of
batch means: what neighbouring steps share hardly makes a trend). Its standard error is widened by what the
residuals of neighbouring means still share (first-order autocorrelation), and it is called rising or falling where
a line this steep would come by chance less than once in 1 / :data:`SIGNIFICANCE` times. O(1) per step and signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import mul
from typing import Any, Final

MOST_BUCKETS: Final = 64
FEWEST_POINTS: Final = 8
"""Means below which no trend is told from noise."""
SIGNIFICANCE: Final = 0.01
SHORTEST_EPOCH: Final = 2
"""Steps below which an epoch has nothing to sum up: the step's own record says all."""

Point = tuple[float, float]
"""Mean step and mean value, less the first value."""


class Course:
    """One signal over an epoch."""

    __slots__ = (
        "_first", "_points", "_size", "_squares", "_sum_x", "_sum_y", "_total", "_waiting", "count", "largest", "least",
    )  # fmt: skip

    def __init__(self, first: float) -> None:
        self._first = first
        """Taken off every value, so that squares of large values don't drown small differences."""
        self.count = 0
        self.least = self.largest = first
        self._total = self._squares = 0.0
        self._size = 1
        """Steps that make a point."""
        self._waiting = 0
        self._sum_x = self._sum_y = 0.0
        self._points: list[Point] = []

    def observe(self, step: float, value: float) -> None:
        """Add a finite value."""
        difference = value - self._first
        self.count += 1
        self._total += difference
        self._squares += difference * difference
        if value < self.least:
            self.least = value
        elif value > self.largest:
            self.largest = value
        if self._size == 1:
            self._points.append((step, difference))
        else:
            self._wait(step, difference)
        if len(self._points) == MOST_BUCKETS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [((x + other_x) / 2, (y + other_y) / 2) for (x, y), (other_x, other_y) in pairs]
            self._size *= 2

    def _wait(self, step: float, difference: float) -> None:
        self._waiting += 1
        self._sum_x += step
        self._sum_y += difference
        if self._waiting == self._size:
            self._points.append((self._sum_x / self._size, self._sum_y / self._size))
            self._waiting, self._sum_x, self._sum_y = 0, 0.0, 0.0

    def summary(self) -> dict[str, Any]:
        """What is to be said about the epoch; ``slope`` is per step, ``p`` its two-sided significance."""
        mean = self._total / self.count
        variance = (self._squares - self.count * mean * mean) / (self.count - 1) if self.count > 1 else 0.0
        said = {
            "count": self.count,
            "mean": self._first + mean,
            "std": math.sqrt(max(0.0, variance)),
            "min": self.least,
            "max": self.largest,
        }
        return {**said, **trend(self._points)}


class Epochs:
    """All signals over the epoch in progress."""

    def __init__(self) -> None:
        self._epoch = 0
        self._first_step = self._last_step = 0
        self._steps = 0
        self._courses: dict[str, Course] = {}

    def observe(self, epoch: float, step: int, values: Mapping[str, float | None]) -> dict[str, Any] | None:
        """Add a step that ends at ``epoch`` (a fraction); returns the summary of the epoch that is over with it."""
        number = max(0, math.ceil(epoch - 1e-9) - 1)
        ended = self.end() if number != self._epoch else None
        self._epoch, self._last_step = number, step
        if not self._steps:
            self._first_step = step
        self._steps += 1
        courses, at = self._courses, float(step)
        for name, value in values.items():
            if value is not None and value - value == 0.0:
                course = courses.get(name)
                if course is None:
                    course = courses[name] = Course(value)
                course.observe(at, value)
        return ended

    def end(self) -> dict[str, Any] | None:
        """The summary of the epoch in progress, which ends here; None where it has hardly begun."""
        steps, courses = self._steps, self._courses
        self._steps, self._courses = 0, {}
        if steps < SHORTEST_EPOCH:
            return None
        return {
            "epoch": self._epoch,
            "first_step": self._first_step,
            "step": self._last_step,
            "steps": steps,
            "signals": {name: course.summary() for name, course in courses.items()},
        }


def trend(points: Sequence[Point]) -> dict[str, Any]:
    """Slope, significance and the word for it; all None below :data:`FEWEST_POINTS` points."""
    if len(points) < FEWEST_POINTS:
        return {"slope": None, "p": None, "trend": None}
    slope, residuals, spread = _line(points)
    p = _significance(slope, residuals, spread)
    word = "stable" if p >= SIGNIFICANCE or slope == 0 else "rising" if slope > 0 else "falling"
    return {"slope": slope, "p": p, "trend": word}


def _line(points: Sequence[Point]) -> tuple[float, list[float], float]:
    """Slope, residuals, and the sum of squares of the steps about their mean."""
    middle_x, middle_y = (sum(column) / len(points) for column in zip(*points, strict=True))
    steps, values = [x - middle_x for x, _ in points], [y - middle_y for _, y in points]
    spread = sum(map(mul, steps, steps))
    slope = sum(map(mul, steps, values)) / spread if spread else 0.0
    return slope, [y - slope * x for x, y in zip(steps, values, strict=True)], spread


def _significance(slope: float, residuals: Sequence[float], spread: float) -> float:
    """Two-sided p-value of the slope: Student's t, turned into a normal deviate (Abramowitz and Stegun 26.7.8)."""
    squares = sum(map(mul, residuals, residuals))
    if slope == 0.0 or spread == 0.0:
        return 1.0
    if squares <= 1e-20 * slope * slope * spread:  # a perfect line, but for rounding
        return 0.0
    shared = sum(map(mul, residuals, residuals[1:])) / squares
    shared = min(0.99, max(0.0, shared))
    freedom = len(residuals) * (1 - shared) / (1 + shared) - 2
    if freedom < 1:
        return 1.0
    t = abs(slope) / math.sqrt(squares / freedom / spread)
    deviate = t * (1 - 1 / (4 * freedom)) / math.sqrt(1 + t * t / (2 * freedom))
    return math.erfc(deviate / math.sqrt(2))
