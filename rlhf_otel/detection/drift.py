"""A change-point statistic that a steady trend leaves alone: CUSUM (Page 1954) of the error of a forecast.

The forecast continues the signal's trend (Brown's double exponential smoothing over about
:data:`SLOW_STEPS` steps). Errors are measured in units of the noise between one step and the next (the moving
range), which a trend hardly enters, and clipped, so that one spike is not a change. What remains of each
error after :data:`ALLOWANCE` adds up, upwards and downwards; the larger sum is the statistic, negative for
downwards. O(1) per step.
"""

from __future__ import annotations

from typing import Any, Final

WARM_UP: Final = 20
SLOW_STEPS: Final = 100
ALLOWANCE: Final = 1.0
"""Error, in units of the noise, that counts as none: half of the smallest change to be found, Page's rule."""
CLIP: Final = 4.0
MOVING_RANGE: Final = 1.128
"""Mean moving range over standard deviation, of independent normal values."""
LARGEST: Final = 1000.0
"""Where the sums stop: what was a change for so long needs no further evidence, and has to be able to end."""

_SLOW: Final = 2.0 / (SLOW_STEPS + 1)
_LAG: Final = (1 - _SLOW) / _SLOW
_AHEAD: Final = 1 + 1 / _LAG


class Drift:
    """The statistic of one signal."""

    __slots__ = ("count", "down", "first", "last", "moment", "noise", "second", "total", "up")

    def __init__(self) -> None:
        self.count = 0
        self.total = self.moment = 0.0
        self.first = self.second = 0.0
        self.noise = 0.0
        self.last = 0.0
        self.up = self.down = 0.0

    def observe(self, value: float) -> float | None:
        """The statistic with ``value`` (finite); None during the first :data:`WARM_UP` values."""
        change = abs(value - self.last) / MOVING_RANGE
        self.last = value
        if self.count < WARM_UP:
            self._warm_up(value, change)
            return None
        first, second, usual = self.first, self.second, self.noise
        forecast = first + (first - second) * _AHEAD
        noise = usual if usual > 1e-12 else 1e-12
        error = (value - forecast) / noise
        if error > CLIP:
            error = CLIP
        elif error < -CLIP:
            error = -CLIP
        up, down = self.up + error - ALLOWANCE, self.down - error - ALLOWANCE
        self.up = up = LARGEST if up > LARGEST else up if up > 0.0 else 0.0
        self.down = down = LARGEST if down > LARGEST else down if down > 0.0 else 0.0
        self.first = first = first + _SLOW * (forecast + error * noise - first)
        self.second = second + _SLOW * (first - second)
        bound = CLIP * noise
        self.noise = usual + _SLOW * ((change if change < bound else bound) - usual)
        return up if up >= down else -down

    def _warm_up(self, value: float, change: float) -> None:
        """Fit a line to the first values, and start as if it had gone on for ever."""
        if self.count:
            self.noise += (change - self.noise) / self.count
        self.total += value
        self.moment += self.count * value
        self.count += 1
        if self.count == WARM_UP:
            middle = (WARM_UP - 1) / 2
            slope = (self.moment - middle * self.total) * 12 / (WARM_UP * (WARM_UP**2 - 1))
            level = self.total / WARM_UP + slope * middle
            self.first = level - _LAG * slope
            self.second = level - 2 * _LAG * slope

    def state(self) -> dict[str, Any]:
        """What has been learnt, for a checkpoint."""
        return {name: getattr(self, name) for name in self.__slots__}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, value)
