"""A quantity over steps, and how many of its points a chart gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Final, NamedTuple

MAX_POINTS: Final = 400
"""Of a chart's line. More than it has pixels; lowest and highest of each stretch stay."""
MAX_NONFINITE: Final = 50
_BLOCKS: Final = "▁▂▃▄▅▆▇█"


class Curve(NamedTuple):
    """Values over steps, in the order in which they were written. Values may be NaN or infinite."""

    steps: list[int]
    values: list[float]

    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if value - value == 0.0]

    def nonfinite_steps(self) -> list[int]:
        """The first steps whose value is NaN or infinite."""
        found = [step for step, value in zip(*self, strict=True) if value - value != 0.0]
        return found[:MAX_NONFINITE]

    def moves(self) -> bool:
        """Whether it takes two values at least."""
        return len(set(self.values)) > 1

    def first(self) -> float | None:
        """Median of the first tenth: what it began with."""
        values = self.finite()
        return median(values[: max(1, len(values) // 10)]) if values else None

    def last(self) -> float | None:
        """Median of the last tenth: what it ended with."""
        values = self.finite()
        return median(values[-max(1, len(values) // 10) :]) if values else None

    def within(self, first: int, last: int) -> Curve:
        """The part between two steps, both included."""
        kept = [(step, value) for step, value in zip(*self, strict=True) if first <= step <= last]
        return Curve([step for step, _ in kept], [value for _, value in kept])

    def thinned(self, points: int = MAX_POINTS) -> Curve:
        """At most about ``points``: of each stretch the lowest and the highest; a NaN where a stretch has nothing else."""
        if len(self.steps) <= points:
            return self
        stretch = -(-2 * len(self.steps) // points)
        kept: list[tuple[int, float]] = []
        for begin in range(0, len(self.steps), stretch):
            kept += _extremes(self.steps[begin : begin + stretch], self.values[begin : begin + stretch])
        return Curve([step for step, _ in kept], [value for _, value in kept])

    def sparkline(self, width: int = 40) -> str:
        """The curve in one line of text; a dot where a stretch has no number."""
        stretch = max(1, -(-len(self.values) // width))
        parts = [self.values[i : i + stretch] for i in range(0, len(self.values), stretch)]
        means = [fmean(finite) if (finite := _finite(part)) else None for part in parts]
        known = [mean for mean in means if mean is not None]
        if not known:
            return "·" * len(means)
        low, span = min(known), max(known) - min(known)
        top = len(_BLOCKS) - 1
        return "".join(
            "·" if mean is None else _BLOCKS[round(top * (mean - low) / span) if span else top // 2]
            for mean in means
        )


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if value - value == 0.0]


def _extremes(steps: Sequence[int], values: Sequence[float]) -> list[tuple[int, float]]:
    """The lowest and the highest of a stretch, in the order of its steps."""
    finite = [(value, index) for index, value in enumerate(values) if value - value == 0.0]
    if not finite:
        return [(steps[0], float("nan"))]
    places = sorted({min(finite)[1], max(finite)[1]})
    return [(steps[place], values[place]) for place in places]
