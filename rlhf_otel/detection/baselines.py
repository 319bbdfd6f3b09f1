"""Streaming baselines: what is usual for a signal, in O(1) per step.

A baseline never includes the value it judges, ignores non-finite values, and cannot be dragged along by an
anomaly: outliers enter clipped, and from the third in a row not at all, until after :data:`PATIENCE` steps
the new level is accepted as usual.

Statistics of a value ``x`` against a baseline with mean ``m`` and scale ``s``
(the scale is the mean absolute change from one value to the next over 1.128, which for independent normal
values is their standard deviation and which a learning trend hardly enters; it is never below the signal's
resolution):

- ``average``: exponential average of ``x`` over about :data:`FAST_STEPS` steps;
- ``zscore``: ``(x - m) / s``;
- ``baseline_ratio``: ``average / m``, for ``m > 0`` (the resolution stands in for a smaller ``m``);
- ``shift``: ``(average - m) / s``;
- ``reference_ratio``: ``average`` over the mean of the warm-up, for positive references.

- ``cusum``, of signals that ask for it: see ``detection/drift.py``.

All but ``average`` are unknown (None) during the first :data:`WARM_UP` values.
"""

from __future__ import annotations

import math
from typing import Any, Final

from rlhf_otel.catalogue.signals import SIGNALS, Signal
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.drift import Drift
from rlhf_otel.records import Statistics, make_tuple

LARGEST: Final = 1e100
"""Magnitude at which values are cut off, so that no sum or square of them overflows."""
WARM_UP: Final = 20
"""Values before anything relative is known: the mean's standard error is then below 1/4 of the scale."""
FAST_STEPS: Final = 10
SLOW_STEPS: Final = 100
OUTLIER_SCALES: Final = 4.0
"""Distance from which a value is an outlier and enters clipped (Huber's psi, wide bend): in scales or, if that
is more, in usual distances from the mean, so that a baseline that trails a learning trend is not frozen."""
NORMAL_MEAN_DEVIATION: Final = 1.2533
"""Standard deviation over mean absolute deviation of a normal distribution: sqrt(pi / 2)."""
FREEZE_AFTER: Final = 2
"""Outliers in a row that still enter."""
PATIENCE: Final = 500
"""Outliers in a row after which the baseline starts anew at the new level."""
MOVING_RANGE: Final = 1.128
"""Mean absolute difference of two independent normal values over their standard deviation: 2 / sqrt(pi)."""

_FAST: Final = 2.0 / (FAST_STEPS + 1)
_SLOW: Final = 2.0 / (SLOW_STEPS + 1)


class Baseline:
    """Streaming statistics of one signal for one kind of step."""

    __slots__ = (
        "_relative", "_resolution", "average", "count", "deviation", "drift", "last", "mean", "outliers",
        "reference", "spread",
    )  # fmt: skip

    def __init__(self, resolution: float, relative_resolution: float, drift: bool = False) -> None:
        self.drift = Drift() if drift else None
        self._resolution = resolution
        self._relative = relative_resolution
        self._reset()
        self.average = math.nan

    def _reset(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.deviation = 0.0
        self.spread = 0.0
        self.last = 0.0
        self.reference: float | None = None
        self.outliers = 0

    @property
    def scale(self) -> float:
        """Usual deviation from the mean, in its unit; positive once values differ or a resolution is set."""
        return max(self.deviation / MOVING_RANGE, self._resolution, self._relative * abs(self.mean))

    def observe(self, value: float) -> Statistics:
        """Judge ``value`` (finite) against what came before it, then learn from it."""
        average = self.average
        average = value if average != average else average + _FAST * (value - average)
        self.average = average
        cusum = None if self.drift is None else self.drift.observe(value)
        if self.count < WARM_UP:
            self._warm_up(value)
            return Statistics(average, None, None, None, None, None)
        mean, resolution, reference = self.mean, self._resolution, self.reference
        deviation, usual = self.deviation, self.spread
        scale = deviation / MOVING_RANGE
        if scale < resolution:
            scale = resolution
        relative = self._relative * (mean if mean >= 0.0 else -mean)
        if scale < relative:
            scale = relative
        if scale == 0.0:
            scale = 1e-12
        delta = value - mean
        floor = mean if mean > resolution else resolution
        statistics = make_tuple(
            Statistics,
            (
                average,
                mean,
                delta / scale,
                average / floor if floor > 0.0 and mean >= 0.0 else None,
                (average - mean) / scale,
                average / reference if reference is not None and reference > 0.0 else None,
                cusum,
            ),
        )
        spread = NORMAL_MEAN_DEVIATION * usual
        bound = OUTLIER_SCALES * (scale if scale > spread else spread)
        if -bound <= delta <= bound:
            self.outliers = 0
        elif not self._enters(value):
            return statistics
        else:
            delta = bound if delta > 0.0 else -bound
        change = value - self.last
        if change < 0.0:
            change = -change
        self.last = value
        self.mean = mean + _SLOW * delta
        self.spread = usual + _SLOW * ((delta if delta >= 0.0 else -delta) - usual)
        self.deviation = deviation + _SLOW * ((change if change < bound else bound) - deviation)
        return statistics

    def _warm_up(self, value: float) -> None:
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        if self.count > 1:
            self.deviation += (abs(value - self.last) - self.deviation) / (self.count - 1)
            self.spread += (abs(delta) - self.spread) / (self.count - 1)
        self.last = value
        if self.count == WARM_UP and self.reference is None:
            self.reference = self.mean

    def _enters(self, value: float) -> bool:
        """Whether an outlier is learnt from, clipped: not from the third in a row on, until it has become usual."""
        self.outliers += 1
        if self.outliers > PATIENCE:
            reference = self.reference
            self._reset()
            self.reference = reference
            self._warm_up(value)
            return False
        if self.outliers > FREEZE_AFTER:
            self.last = value
            return False
        return True

    def state(self) -> dict[str, Any]:
        """What has been learnt, for a checkpoint."""
        names = ("count", "mean", "deviation", "spread", "last", "average", "reference", "outliers")
        state = {name: getattr(self, name) for name in names}
        return state if self.drift is None else {**state, "drift": self.drift.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        for name, value in state.items():
            if name != "drift":
                setattr(self, name, value)
            elif self.drift is not None:
                self.drift.restore(value)


class Baselines:
    """The baselines of all signals that have one, kept apart by kind of step."""

    def __init__(self, signals: tuple[Signal, ...] = SIGNALS) -> None:
        self._tracked = tuple(signal for signal in signals if signal.baseline)
        self._by_kind: dict[str, dict[str, Baseline]] = {kind: self._fresh() for kind in StepKind}
        self.statistics: dict[str, Statistics] = {}
        """Latest statistics of each signal; a new dict at every step, so that a snapshot may keep it."""

    def _fresh(self) -> dict[str, Baseline]:
        return {s.name: Baseline(s.resolution, s.relative_resolution, s.drift) for s in self._tracked}

    def observe(self, kind: StepKind, values: dict[str, float]) -> dict[str, Statistics]:
        """Statistics of the signals that this step has; signals that it lacks keep their latest."""
        latest = self.statistics.copy()
        tracked = self._by_kind[kind]
        for name, value in values.items():
            baseline = tracked.get(name)
            if baseline is None:
                continue
            if -LARGEST <= value <= LARGEST:
                latest[name] = baseline.observe(value)
            elif value - value == 0.0:  # neither NaN nor infinite
                latest[name] = baseline.observe(math.copysign(LARGEST, value))
        self.statistics = latest
        return latest

    def state(self) -> dict[str, Any]:
        """What has been learnt, as plain data for a checkpoint."""
        return {
            kind: {name: baseline.state() for name, baseline in tracked.items()}
            for kind, tracked in self._by_kind.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; signals that it lacks start anew."""
        for kind, tracked in self._by_kind.items():
            for name, baseline in tracked.items():
                if name in state.get(kind, {}):
                    baseline.restore(state[kind][name])
