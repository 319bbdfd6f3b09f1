"""Whether a step was slow for its kind, and not merely long because it had many tokens to work on.

A line through tokens and duration is learnt step by step, in O(1). A step is slow that took longer than steps of its kind
do, and longer by many usual deviations than they would have with its tokens. That finds more than the duration alone,
whose usual deviation is large where lengths vary.
"""

from __future__ import annotations

from typing import Final

from rlhf_otel.detection.baselines import OUTLIER_SCALES, SLOW_STEPS, Baseline
from rlhf_otel.records import Statistics, StepRecord

SLOW_ZSCORE: Final = 6.0
"""Usual deviations above which a duration is too long. Heuristic."""
RELATIVE_RESOLUTION: Final = 0.1
"""Share of the usual duration below which differences do not count, as of the signal ``step_duration``."""
KNOWN_SPREAD: Final = 0.05
"""Relative spread of the tokens at which half of the slope is learnt. While they hardly differ nothing can be learnt of
what more of them would take, and durations are supposed to grow in proportion. Heuristic."""

MOST_TOKENS: Final = 1e15
"""Above this a number of tokens is no such number, and its square may be none."""

_SLOW: Final = 2.0 / (SLOW_STEPS + 1)


class Pace:
    """Judges the durations of a run's steps, in their order."""

    def __init__(self) -> None:
        self._by_kind: dict[str, DurationGivenTokens] = {}

    def is_slow(self, record: StepRecord, duration: Statistics | None) -> bool:
        """Whether the step was; ``duration`` is its duration against the baseline of its kind, None of a step that did
        not end. Where its tokens are unknown, or too few steps with tokens were seen, its duration alone decides."""
        if duration is None:
            return False
        given_tokens = None
        if 0.0 < record.tokens < MOST_TOKENS:
            kind = self._by_kind.setdefault(record.kind, DurationGivenTokens())
            given_tokens = kind.observe(record.duration_s, record.tokens)
        if duration.zscore is None or duration.zscore <= 0.0:
            return False
        return (duration.zscore if given_tokens is None else given_tokens) > SLOW_ZSCORE


class DurationGivenTokens:
    """How long steps of one kind take with so many tokens: a line of running means, variance and covariance."""

    __slots__ = ("_adjusted", "_count", "_covariance", "_seconds", "_tokens", "_variance")

    def __init__(self) -> None:
        self._adjusted = Baseline(0.0, RELATIVE_RESOLUTION)
        self._count = 0
        self._tokens = self._seconds = self._variance = self._covariance = 0.0

    def observe(self, seconds: float, tokens: float) -> float | None:
        """Robust deviation of a duration from what its tokens explain, before it is learnt from; None as long as too
        little is known. The first step is left out: it compiles and warms up."""
        self._count += 1
        if self._count == 1:
            return None
        if self._count == 2:
            self._tokens, self._seconds = tokens, seconds
        adjusted = seconds - self.slope * (tokens - self._tokens)
        mean, bound = self._adjusted.mean, OUTLIER_SCALES * self._adjusted.scale
        statistics = self._adjusted.observe(adjusted)
        if statistics.zscore is not None:  # an outlier is learnt from as far as the bound
            seconds += min(max(adjusted - mean, -bound), bound) - (adjusted - mean)
        self._learn(seconds, tokens)
        return statistics.zscore

    @property
    def slope(self) -> float:
        """Seconds that a token more takes: what was learnt, and proportion as far as nothing could be."""
        proportional = self._seconds / self._tokens
        prior = (KNOWN_SPREAD * self._tokens) ** 2
        return max(0.0, (self._covariance + prior * proportional) / (self._variance + prior))

    def _learn(self, seconds: float, tokens: float) -> None:
        weight = max(_SLOW, 1.0 / (self._count - 1))
        more_tokens, longer = tokens - self._tokens, seconds - self._seconds
        self._tokens += weight * more_tokens
        self._seconds += weight * longer
        self._variance += weight * ((1.0 - weight) * more_tokens * more_tokens - self._variance)
        self._covariance += weight * ((1.0 - weight) * more_tokens * longer - self._covariance)
