"""Whether two samples of scores come from one distribution: three distances, each with its significance.

All are invariant to the scale and the position that the two samples share. Scores are finite floats.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from math import erfc, exp, gamma, isfinite, log, pi, sqrt
from typing import Final, NamedTuple

BINS: Final = 10
"""Bins of the population stability index: tenths of the reference sample, as scorecard monitoring has them."""
PERMUTATIONS: Final = 99
PERMUTED: Final = 128
"""Scores of each sample that the permutation test looks at, evenly spaced: it need not be exact, but bounded."""
LARGEST: Final = 1e100
"""Where scores are cut off, so that no sum or square of them overflows."""


class Distance(NamedTuple):
    """How far apart two samples are."""

    value: float
    p: float
    """Probability of a distance at least as large where both samples come from one distribution, 0 to 1."""


def kolmogorov_smirnov(reference: Sequence[float], recent: Sequence[float]) -> Distance:
    """Largest difference of the two cumulative distributions, 0 to 1.

    Its significance is Kolmogorov's asymptotic one with Stephens' correction (1970), good from 4 scores each
    and conservative where scores are tied.
    """
    first, second = sorted(reference), sorted(recent)
    largest = max(
        abs(bisect_right(first, at) / len(first) - bisect_right(second, at) / len(second))
        for at in {*first, *second}
    )
    root = sqrt(len(first) * len(second) / (len(first) + len(second)))
    return Distance(largest, _kolmogorov((root + 0.12 + 0.11 / root) * largest))


def population_stability_index(reference: Sequence[float], recent: Sequence[float]) -> Distance:
    """Sum over bins of (q - p) ln(q / p), with p and q the shares of the two samples in tenths of the reference.

    Below 0.1 is commonly read as no change and above 0.25 as a large one (Siddiqi, Credit Risk Scorecards,
    2006); over few scores those limits mislead, hence the significance: times n m / (n + m) it is
    chi-squared with one degree of freedom less than there are bins (Yurdakul and Naranjo, 2020). Half a score is
    added to each bin, so that an empty one has a logarithm.
    """
    edges = _edges(reference)
    first, second = _shares(reference, edges), _shares(recent, edges)
    value = sum((q - p) * log(q / p) for p, q in zip(first, second, strict=True))
    scale = len(reference) * len(recent) / (len(reference) + len(recent))
    return Distance(value, chi_squared_tail(value * scale, len(first) - 1))


def wasserstein(reference: Sequence[float], recent: Sequence[float]) -> Distance:
    """Area between the two cumulative distributions over the reference's standard deviation: by how many of these
    the scores have moved, on average. Infinite where the reference has no spread and the scores did move.

    Its significance is that of a permutation test with :data:`PERMUTATIONS` permutations, 0.01 at the least.
    """
    area = _area(sorted(reference), sorted(recent))
    spread = deviation(reference)
    value = area / spread if spread else (float("inf") if area else 0.0)
    return Distance(value, _permutation_p(_thinned(reference), _thinned(recent)))


def clipped(score: float) -> float:
    """The score, no larger than :data:`LARGEST`; NaN and infinities stay what they are."""
    return max(-LARGEST, min(LARGEST, score)) if isfinite(score) else score


def deviation(scores: Sequence[float]) -> float:
    """Standard deviation, exactly 0 where all scores are the same."""
    if not scores or min(scores) == max(scores):
        return 0.0
    mean = sum(scores) / len(scores)
    return sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))


def chi_squared_tail(value: float, degrees: int) -> float:
    """Probability that a chi-squared variable of ``degrees`` degrees of freedom exceeds ``value``."""
    if value <= 0 or degrees <= 0:
        return 1.0
    half = value / 2
    if half > 700:  # exp(-half) is 0
        return 0.0
    odd = degrees % 2
    tail = erfc(sqrt(half)) if odd else exp(-half)
    # Q(a + 1, x) = Q(a, x) + x^a e^-x / Gamma(a + 1), from a = 1/2 or 1 on
    a = 0.5 if odd else 1.0
    while a < degrees / 2:
        tail += exp(a * log(half) - half) / gamma(a + 1)
        a += 1
    return min(1.0, tail)


def _kolmogorov(scaled: float) -> float:
    if scaled < 0.2:
        return 1.0
    if scaled < 1.18:  # the other series converges slowly here
        terms = sum(exp(-((2 * k - 1) ** 2) * pi**2 / (8 * scaled**2)) for k in range(1, 8))
        return max(0.0, min(1.0, 1 - sqrt(2 * pi) / scaled * terms))
    return max(0.0, min(1.0, 2 * sum((-1.0) ** (k - 1) * exp(-2 * (k * scaled) ** 2) for k in range(1, 8))))


def _edges(reference: Sequence[float]) -> list[float]:
    ordered = sorted(reference)
    tenths = {ordered[len(ordered) * tenth // BINS - 1] for tenth in range(1, BINS)}
    return sorted(tenths - {ordered[-1]})


def _shares(scores: Sequence[float], edges: Sequence[float]) -> list[float]:
    """Share of the scores up to each edge, and of those above the last; each bin has half a score beforehand."""
    counts = [0.5] * (len(edges) + 1)
    for score in scores:
        counts[bisect_left(edges, score)] += 1
    total = sum(counts)
    return [count / total for count in counts]


def _area(first: Sequence[float], second: Sequence[float]) -> float:
    points = sorted({*first, *second})
    area = 0.0
    for at, following in pairwise(points):
        difference = bisect_right(first, at) / len(first) - bisect_right(second, at) / len(second)
        area += abs(difference) * (following - at)
    return area


def _thinned(scores: Sequence[float]) -> list[float]:
    step = max(1, len(scores) // PERMUTED)
    return list(scores[::step][:PERMUTED])


def _permutation_p(first: Sequence[float], second: Sequence[float]) -> float:
    observed = _area(sorted(first), sorted(second))
    pool, size = [*first, *second], len(first)
    shuffle = random.Random(0).shuffle  # of its own: training's random state is not ours
    as_large = 0
    for _ in range(PERMUTATIONS):
        shuffle(pool)
        as_large += _area(sorted(pool[:size]), sorted(pool[size:])) >= observed
    return (as_large + 1) / (PERMUTATIONS + 1)
