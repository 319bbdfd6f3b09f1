"""How far a reward can be trusted, from its scores alone and from the texts that it scored.

``stability`` and ``consistency`` are 0 to 1, do not change when every score is moved or stretched, and give a reward that
is constant no credit: it says nothing, however reliably.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Final

from rlhf_otel.records import Histogram
from rlhf_otel.reward_model.shortcuts import SHORTCUTS, rank_correlation
from rlhf_otel.reward_model.two_samples import (
    Distance,
    clipped,
    deviation,
    kolmogorov_smirnov,
    population_stability_index,
    wasserstein,
)
from rlhf_otel.sources.samples import histogram

BLOCKS: Final = 8
LEAST: Final = 32
"""Scores from which on anything is said about their distribution; heuristic: four in each block."""
COLLAPSED: Final = 0.99
"""Share of the scores with one and the same value from which on a reward counts as constant."""
EDGE: Final = 0.01
"""Part of the observed range, at either end, in which a score counts as saturated."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What is known of one reward's scores; None where there are too few, or what would be needed is missing."""

    scores: int
    """Finite scores in the window."""
    mean: float | None = None
    std: float | None = None
    histogram: Histogram | None = None
    """Scores in bins of equal width between the lowest and the highest of them."""
    collapsed: bool = False
    """At least 99 % of the scores are the same."""
    stability: float | None = None
    """Share of the scores' variance that is not a jump of their level; see :func:`stability`."""
    consistency: float | None = None
    """Test-retest reliability; see :func:`consistency`."""
    kolmogorov_smirnov: Distance | None = None
    population_stability_index: Distance | None = None
    wasserstein: Distance | None = None
    saturated_low: float | None = None
    """Share of the scores within 1 % of the lowest end of the range seen since the start."""
    saturated_high: float | None = None
    shortcuts: dict[str, float] = field(default_factory=dict)
    """Property of the text to its rank correlation with the score, -1 to 1."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        return {
            name: value._asdict() if isinstance(value, Distance | Histogram) else value
            for name, value in found.items()
        }


def reliability(
    recent: Sequence[float],
    reference: Sequence[float] = (),
    *,
    texts: Sequence[Sequence[float]] = (),
    rescored: Sequence[tuple[float, float]] = (),
    observed_range: tuple[float, float] | None = None,
) -> Reliability:
    """Judge ``recent`` scores, oldest first; NaN and infinities among them are left out.

    ``reference`` are earlier scores to compare with; ``texts`` what ``shortcuts_of`` found in each scored text;
    ``rescored`` pairs of scores of the same completion; ``observed_range`` the lowest and highest score ever.
    """
    pairs = [(clipped(s), text) for s, text in zip(recent, texts, strict=False) if isfinite(s)]
    scores = [clipped(score) for score in recent if isfinite(score)]
    if not scores:
        return Reliability(0)
    collapsed = len(scores) >= LEAST and most_common_share(scores) >= COLLAPSED
    earlier = [clipped(score) for score in reference if isfinite(score)]
    comparable = min(len(scores), len(earlier)) >= LEAST
    ends = observed_range or (min(scores), max(scores))
    return Reliability(
        scores=len(scores),
        mean=sum(scores) / len(scores),
        std=deviation(scores),
        histogram=histogram(scores),
        collapsed=collapsed,
        stability=0.0 if collapsed else stability(scores),
        consistency=consistency(rescored),
        kolmogorov_smirnov=kolmogorov_smirnov(earlier, scores) if comparable else None,
        population_stability_index=population_stability_index(earlier, scores) if comparable else None,
        wasserstein=wasserstein(earlier, scores) if comparable else None,
        saturated_low=_near(scores, ends, ends[0]),
        saturated_high=_near(scores, ends, ends[1]),
        shortcuts=_shortcuts(pairs),
    )


def stability(scores: Sequence[float]) -> float | None:
    """1 less the share of variance that lies between consecutive eighths of the scores once their straight trend is
    taken out (omega squared, Hays 1963).

    A policy that learns moves its rewards steadily, which is no fault of the reward; a reward whose level jumps is
    another matter. About 1 for independent scores with a trend or without, towards 0 where level jumps are all
    there is. None from fewer than :data:`LEAST` scores; 0 for a constant.
    """
    if len(scores) < LEAST:
        return None
    residuals = _without_trend(scores)
    total = sum(residual**2 for residual in residuals)
    scale = max(map(abs, scores))
    if not deviation(scores) or total <= (1e-12 * scale) ** 2 * len(scores):
        return 0.0 if not deviation(scores) else 1.0  # a constant, or nothing but a trend
    blocks = [
        residuals[len(residuals) * i // BLOCKS : len(residuals) * (i + 1) // BLOCKS] for i in range(BLOCKS)
    ]
    between = sum(sum(block) ** 2 / len(block) for block in blocks)
    within = (total - between) / (len(scores) - BLOCKS)
    explained = (between - (BLOCKS - 1) * within) / (total + within)
    return 1.0 - max(0.0, min(1.0, explained))


def consistency(rescored: Sequence[tuple[float, float]]) -> float | None:
    """Share of the scores' variance that comes from the completions and not from scoring them twice: the intraclass
    correlation ICC(1, 1) of the pairs (Shrout and Fleiss 1979), not below 0.

    None from fewer than 8 pairs, and where all scores are the same: then there is nothing to be consistent about.
    """
    pairs = [(clipped(a), clipped(b)) for a, b in rescored if isfinite(a) and isfinite(b)]
    if len(pairs) < 8 or not deviation([score for pair in pairs for score in pair]):
        return None
    within = sum((a - b) ** 2 / 2 for a, b in pairs) / len(pairs)
    middles = [(a + b) / 2 for a, b in pairs]
    between = 2 * deviation(middles) ** 2 * len(pairs) / (len(pairs) - 1)
    return max(0.0, (between - within) / (between + within))


def most_common_share(scores: Sequence[float]) -> float:
    """Share of the scores that have the most frequent value."""
    counts: dict[float, int] = {}
    for score in scores:
        counts[score] = counts.get(score, 0) + 1
    return max(counts.values()) / len(scores)


def _without_trend(scores: Sequence[float]) -> list[float]:
    middle = (len(scores) - 1) / 2
    mean = sum(scores) / len(scores)
    slope = sum((i - middle) * (score - mean) for i, score in enumerate(scores))
    slope /= sum((i - middle) ** 2 for i in range(len(scores)))
    return [score - mean - slope * (i - middle) for i, score in enumerate(scores)]


def _near(scores: Sequence[float], ends: tuple[float, float], end: float) -> float | None:
    """None where the range is a point: no end of it could be told from the other."""
    width = ends[1] - ends[0]
    if len(scores) < LEAST or not width:
        return None
    return sum(abs(score - end) <= EDGE * width for score in scores) / len(scores)


def _shortcuts(pairs: Sequence[tuple[float, Sequence[float]]]) -> dict[str, float]:
    if len(pairs) < LEAST:
        return {}
    scores = [score for score, _ in pairs]
    columns = zip(SHORTCUTS, zip(*(text for _, text in pairs), strict=True), strict=True)
    found = {name: rank_correlation(scores, column) for name, column in columns}
    return {name: correlation for name, correlation in found.items() if correlation is not None}
