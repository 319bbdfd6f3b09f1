"""Statistics of a tensor, gathered over pieces of it: the parts are added up, in any order."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rlhf_otel.checkpoints.dtypes import Glance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]

_ROW: Final = 1024
"""Numbers that are summed in single precision before they are added in double precision."""
_SMALL_SPREAD: Final = 1e-2
"""Share of the mean square below which the variance is computed from the deviations themselves."""


class Moments(NamedTuple):
    """What is known of some numbers. Everything but ``size`` and ``nonfinite`` is of the finite ones."""

    size: int = 0
    nonfinite: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    deviation: float = 0.0
    """Sum of squared deviations from the mean."""

    @property
    def finite(self) -> int:
        """How many are neither NaN nor infinite."""
        return self.size - self.nonfinite

    @property
    def std(self) -> float:
        """Standard deviation (of the population)."""
        return math.sqrt(max(0.0, self.deviation) / self.finite) if self.finite else 0.0

    @property
    def square(self) -> float:
        """Sum of squares."""
        return max(0.0, self.deviation) + self.finite * self.mean**2

    @property
    def norm(self) -> float:
        """L2 norm."""
        return math.sqrt(self.square)

    @property
    def rms(self) -> float:
        """Root of the mean square: the norm without the influence of the size."""
        return math.sqrt(self.square / self.finite) if self.finite else 0.0

    @property
    def zero_ratio(self) -> float:
        """Share of zeros."""
        return self.zeros / self.size if self.size else 0.0

    @property
    def all_zero(self) -> bool:
        """Whether there is nothing but zeros."""
        return 0 < self.size == self.zeros

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.low), abs(self.high)) if self.finite else 0.0

    def plus(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub, LeVeque 1979)."""
        if not other.finite or not self.finite:
            known = self if self.finite else other
            return known._replace(size=self.size + other.size, nonfinite=self.nonfinite + other.nonfinite)
        finite = self.finite + other.finite
        apart = other.mean - self.mean
        return Moments(
            self.size + other.size,
            self.nonfinite + other.nonfinite,
            self.zeros + other.zeros,
            min(self.low, other.low),
            max(self.high, other.high),
            self.mean + apart * (other.finite / finite),
            self.deviation + other.deviation + apart**2 * (self.finite * other.finite / finite),
        )


def moments(numbers: Numbers, known: Glance | None = None) -> Moments:
    """Of one piece, which should fit into a core's cache. ``known`` is what its codes told already."""
    if not len(numbers):
        return Moments()
    known = known or _extremes(numbers)
    if not (math.isfinite(known.low) and math.isfinite(known.high)):
        return _of_the_finite(numbers)
    size, sum_ = len(numbers), total(numbers)
    found = of_sums(size, known, sum_, square(numbers))
    if found is not None:
        return found
    mean = sum_ / size
    return Moments(size, 0, known.zeros, known.low, known.high, mean, square(numbers.astype("f8") - mean))


def of_sums(size: int, known: Glance, total: float, square: float) -> Moments | None:
    """From sums of numbers and of their squares; None where these do not tell: some numbers are not finite, squares
    overflow, or the spread is so small beside the mean that it has to be computed from the deviations themselves."""
    mean = total / size
    deviation = square - size * mean**2
    told = math.isfinite(known.low) and math.isfinite(known.high) and math.isfinite(deviation)
    if not told or deviation <= _SMALL_SPREAD * size * mean**2:
        return None
    return Moments(size, 0, known.zeros, known.low, known.high, mean, deviation)


def _extremes(numbers: Numbers) -> Glance:
    import numpy as np

    return Glance(float(numbers.min()), float(numbers.max()), int(np.count_nonzero(numbers == 0)))


def _of_the_finite(numbers: Numbers) -> Moments:
    import numpy as np

    good = numbers[np.isfinite(numbers)]
    known = moments(good.astype(np.float64)) if len(good) else Moments()
    return known._replace(size=len(numbers), nonfinite=len(numbers) - len(good))


def total(numbers: Numbers) -> float:
    """Sum, by a product with ones: three times as fast as numpy's own, and no less exact. Of numbers whose sums overflow
    in double precision."""
    import numpy as np

    whole = len(numbers) - len(numbers) % _ROW
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.dot(numbers[:whole].reshape(-1, _ROW), _ones(numbers.dtype.char))
        found = float(rows.sum(dtype=np.float64)) + float(numbers[whole:].sum(dtype=np.float64))
        return found if math.isfinite(found) else float(numbers.sum(dtype=np.float64))


@cache
def _ones(kind: str) -> Numbers:
    import numpy as np

    return np.ones(_ROW, kind)


def square(numbers: Numbers) -> float:
    """Sum of squares; of numbers whose squares overflow in double precision."""
    import numpy as np

    with np.errstate(over="ignore"):
        found = float(np.dot(numbers, numbers))
    if not math.isfinite(found) and numbers.dtype == np.float32:
        return square(numbers.astype(np.float64))
    return found
