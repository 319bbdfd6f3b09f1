"""Two reward models on the same completions: do they rank alike, and where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, Final, NamedTuple

from rlhf_otel.reward_model.shortcuts import rank_correlation
from rlhf_otel.reward_model.two_samples import Distance, deviation, kolmogorov_smirnov

LEAST: Final = 8
"""Completions of a slice that is compared; fewer say nothing."""
MOST_SLICES: Final = 20
AGREE: Final = 0.8
"""Rank correlation that is called very strong (Evans 1996)."""


class Compared(NamedTuple):
    """Scores ``a`` and ``b`` of the same completions, NaN left out."""

    completions: int
    rank_correlation: float | None
    """Spearman's, -1 to 1; None where either is constant."""
    sign_flips: float
    """Share of completions that one scores above its median and the other below its own: the scores of two models have
    no common zero."""
    effect_size: float | None
    """Cohen's d of b against a: difference of the means over the pooled standard deviation; None without spread."""
    distance: Distance
    """Of the two distributions once each is brought to mean 0 and deviation 1: another shape, not another scale."""


class Comparison(NamedTuple):
    """All completions, and slices of them by name and value."""

    whole: Compared
    slices: dict[str, Compared]
    left_out: int
    """Rows without two finite scores."""


def compare(
    a: Sequence[float], b: Sequence[float], labels: Sequence[Mapping[str, Any]] = ()
) -> Comparison | None:
    """Of the scores of the same completions; ``labels`` has what each belongs to, such as ``{"source": "code"}``.

    None from fewer than :data:`LEAST` completions. ValueError where lengths differ.
    """
    if len(a) != len(b) or (labels and len(labels) != len(a)):
        raise ValueError(f"{len(a)} scores of one and {len(b)} of the other: give both for each completion")
    rows = [i for i in range(len(a)) if isfinite(a[i]) and isfinite(b[i])]
    if len(rows) < LEAST:
        return None
    members: dict[str, list[int]] = {}
    for i in rows if labels else ():
        for name, value in labels[i].items():
            members.setdefault(f"{name}={value}", []).append(i)
    large = sorted(
        (name for name in members if len(members[name]) >= LEAST), key=lambda n: (-len(members[n]), n)
    )
    middles = _median([a[i] for i in rows]), _median([b[i] for i in rows])
    return Comparison(
        _compared(a, b, rows, middles),
        {name: _compared(a, b, members[name], middles) for name in large[:MOST_SLICES]},
        len(a) - len(rows),
    )


def verdict(found: Comparison) -> str:
    """What to make of it, in a sentence."""
    correlation = found.whole.rank_correlation
    if correlation is None:
        return "One of the two is constant: it can't be compared, nor train anything."
    worst = [name for name, one in found.slices.items() if (one.rank_correlation or 0.0) < correlation - 0.2]
    where = f" They part most in {', '.join(worst[:3])}: read completions there." if worst else ""
    if correlation >= AGREE:
        return f"They rank alike: either would train much the same policy.{where}"
    if correlation <= -0.3:
        return f"They rank against each other: one of the two has its sign swapped, or its pairs.{where}"
    return f"They rank differently: a policy that pleases one need not please the other.{where}"


def _compared(
    a: Sequence[float], b: Sequence[float], rows: Sequence[int], middles: tuple[float, float]
) -> Compared:
    first, second = [a[i] for i in rows], [b[i] for i in rows]
    flips = sum((x - middles[0]) * (y - middles[1]) < 0 for x, y in zip(first, second, strict=True))
    pooled = ((deviation(first) ** 2 + deviation(second) ** 2) / 2) ** 0.5
    return Compared(
        completions=len(rows),
        rank_correlation=rank_correlation(first, second),
        sign_flips=flips / len(rows),
        effect_size=(_mean(second) - _mean(first)) / pooled if pooled else None,
        distance=kolmogorov_smirnov(_standardised(first), _standardised(second)),
    )


def _standardised(scores: Sequence[float]) -> list[float]:
    mean, spread = _mean(scores), deviation(scores) or 1.0
    return [round((score - mean) / spread, 9) for score in scores]  # rounding makes ties of what was tied


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _median(scores: Sequence[float]) -> float:
    ordered, half = sorted(scores), len(scores) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
