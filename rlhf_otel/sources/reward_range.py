"""The range that a run's rewards lie in of late: what is a high reward, and what a low one.

It follows each generation's lowest and highest reward: outwards at once, but by its own width at most, so that one
outlier of -100 among rewards of 0 and 1 does not make every reward a high one; and inwards by a twentieth, so
that what is over is forgotten within some hundred generations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Final

from rlhf_otel.sources.groups import TOLERANCE

INWARDS: Final = 0.05
"""Share of the way to a generation's own extremes that a wider range goes. Heuristic."""


class RewardRange:
    """Lowest and highest reward of late."""

    def __init__(self, known: Sequence[float] = ()) -> None:
        """``known`` is what :meth:`state` said in an earlier attempt. Raises ValueError where it cannot be."""
        if known and not (len(known) == 2 and all(map(isfinite, known)) and known[0] <= known[1]):
            raise ValueError(f"{known!r} is no range of rewards")
        self._known = (float(known[0]), float(known[1])) if known else None

    def state(self) -> list[float]:
        """The range, for a checkpoint; empty while there is none."""
        return list(self._known or ())

    def observe(self, rewards: Iterable[float]) -> None:
        """Follow a generation's rewards; those that are not finite are left out."""
        finite = [reward for reward in rewards if isfinite(reward)]
        if not finite:
            return
        low, high = min(finite), max(finite)
        if self._known is not None and self._differs(*self._known):
            low, high = self._followed(*self._known, low, high)
        elif self._known is not None:  # nothing but one reward so far
            low, high = min(low, self._known[0]), max(high, self._known[1])
        self._known = low, high

    def is_high(self, reward: float) -> bool | None:
        """Whether it lies in the upper half. Where rewards never differed, one of 0 or less is low, as of a function
        that has recognised nothing yet; of a higher one nobody knows: None."""
        if self._known is None or not self._differs(*self._known):
            return False if reward <= 0 else None
        return reward > self._known[0] / 2 + self._known[1] / 2

    @staticmethod
    def _followed(low: float, high: float, lowest: float, highest: float) -> tuple[float, float]:
        width = high - low
        inner_low = low + INWARDS * (min(lowest, high) - low)
        inner_high = high + INWARDS * (max(highest, low) - high)
        new_low = inner_low if lowest > low else max(lowest, low - width)
        new_high = inner_high if highest < high else min(highest, high + width)
        # A range never closes: what was low or high before a run of equal rewards stays so.
        return (new_low, new_high) if RewardRange._differs(new_low, new_high) else (low, high)

    @staticmethod
    def _differs(low: float, high: float) -> bool:
        return high - low > TOLERANCE * max(1.0, abs(low), abs(high))
