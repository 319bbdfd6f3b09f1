"""How well a reward model agrees with people, on pairs that they have labelled."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isfinite
from typing import Final, NamedTuple

BINS: Final = 10
"""Bins of confidence for the calibration error, of equal width (Guo et al. 2017, arXiv:1706.04599)."""


class Calibration(NamedTuple):
    """Of a reward model on labelled pairs; its probability that the chosen completion is the better one is
    sigmoid(chosen - rejected), as Bradley and Terry have it and reward models are trained."""

    pairs: int
    """Pairs in which both scores are finite."""
    accuracy: float
    """Share of the pairs in which the chosen completion has the higher score; equal scores count half. 0 to 1."""
    brier: float
    """Mean squared distance of the probability from 1, 0 to 1; 0.25 is that of one who always says a half."""
    calibration_error: float
    """Expected calibration error: mean distance of confidence from accuracy over bins of confidence, 0 to 1."""
    margin_mean: float
    """Of chosen less rejected score."""
    margin_quantiles: tuple[float, float, float]
    """Lower quartile, median, upper quartile."""


def calibration(chosen: Sequence[float], rejected: Sequence[float]) -> Calibration | None:
    """Of the scores of pairs; None where no pair has two finite scores.

    ValueError where the two differ in length.
    """
    if len(chosen) != len(rejected):
        raise ValueError(
            f"{len(chosen)} chosen and {len(rejected)} rejected scores: give one of each for a pair"
        )
    margins = [a - b for a, b in zip(chosen, rejected, strict=True) if isfinite(a) and isfinite(b)]
    margins = [margin for margin in margins if isfinite(margin)]
    if not margins:
        return None
    ordered = sorted(margins)
    return Calibration(
        pairs=len(margins),
        accuracy=sum(_won(margin) for margin in margins) / len(margins),
        brier=sum((1 - sigmoid(margin)) ** 2 for margin in margins) / len(margins),
        calibration_error=_calibration_error(margins),
        margin_mean=sum(margins) / len(margins),
        margin_quantiles=(_quantile(ordered, 0.25), _quantile(ordered, 0.5), _quantile(ordered, 0.75)),
    )


def sigmoid(value: float) -> float:
    """1 / (1 + e^-value), for any finite value."""
    return 1 / (1 + exp(-value)) if value >= 0 else exp(value) / (1 + exp(value))


def _won(margin: float) -> float:
    return 0.5 if margin == 0 else float(margin > 0)


def _calibration_error(margins: Sequence[float]) -> float:
    bins: dict[int, list[tuple[float, float]]] = {}
    for margin in margins:
        confidence = sigmoid(abs(margin))  # in the completion with the higher score, 0.5 to 1
        bins.setdefault(min(BINS - 1, int((confidence - 0.5) * 2 * BINS)), []).append(
            (confidence, _won(margin))
        )
    distances = (abs(sum(c for c, _ in one) - sum(won for _, won in one)) for one in bins.values())
    return sum(distances) / len(margins)


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)
