"""Groups of completions, from the buffers that the trainer has already gathered.

TRL's ``frac_reward_zero_std`` is not the share of groups without advantage: with ``scale_rewards="batch"`` it
is 0 where half of the groups are dead, and RLOO takes it after the KL penalty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from operator import mul
from typing import Any, Final, NamedTuple

from rlhf_otel.records import make_tuple

TOLERANCE: Final = 1e-6
"""Relative spread of a group's rewards below which float32 rounding explains it."""
MAX_COMPARED: Final = 32
"""Reward functions that are compared with one another: as many as have series of their own."""


class Generation(NamedTuple):
    """The rewards of the last generation: per function one number per completion, group after group."""

    by_function: list[list[float]]
    weights: Any
    """A weight per function: the trainer's tensor, which it never changes, or None for 1 each."""
    group_size: int
    names: Sequence[str] = ()
    """The functions' names."""
    completions: Sequence[Any] = ()
    """Texts, or lists of messages; empty where the signals of single completions are off."""


def group_size_of(trainer: Any) -> int:
    """Completions of a group, in the trainer's buffers; 0 where it has no groups."""
    # GFPO keeps some completions of each group, and only these in its buffers.
    size = getattr(trainer, "num_remains_in_group", None) or getattr(trainer, "num_generations", None)
    return int(size or 0)


def buffers_of(trainer: Any) -> Mapping[str, Any]:
    """The trainer's buffers, which it fills anew with each generation; empty where it keeps none, or has no groups."""
    logs = getattr(trainer, "_logs", None)
    return logs if isinstance(logs, dict) and group_size_of(trainer) > 1 else {}


def last_generation(
    buffers: Mapping[str, Any], weights: Any, group_size: int, samples: bool = True
) -> Generation | None:
    """A copy of the buffers, the completions only for ``samples``; None where they are empty."""
    rewards = buffers.get("rewards")
    if not rewards:
        return None
    by_function = list(map(list, rewards.values()))
    completions = list(buffers.get("completion") or ()) if samples else ()
    return make_tuple(Generation, (by_function, weights, group_size, list(rewards), completions))


def zero_advantage_ratio(rewards: Sequence[float], group_size: int) -> float | None:
    """Share of groups whose completions all got the same reward (NaN, a completion nobody scored, is left
    out).

    ``rewards`` has one number per completion, group after group. None where that makes no whole group.
    """
    groups = len(rewards) // group_size if group_size > 0 else 0
    if groups == 0:
        return None
    dead = sum(is_dead(rewards[i * group_size : (i + 1) * group_size]) for i in range(groups))
    return dead / groups


def is_dead(group: Sequence[float]) -> bool:
    """Whether a group's completions all got the same reward, or at most one of them has any."""
    scored = [reward for reward in group if reward == reward]
    if len(scored) < 2:
        return True
    low, high = min(scored), max(scored)
    return high - low <= TOLERANCE * max(1.0, abs(low), abs(high))


def weighted_rewards(generation: Generation) -> list[float]:
    """Reward of each completion: the weighted sum over the functions that scored it; NaN where none did."""
    weights = _numbers(generation)
    if all(map(_has_no_nan, generation.by_function)):  # as nearly always, and then many times as fast
        weighted = [
            [score * weight for score in column]
            for column, weight in zip(generation.by_function, weights, strict=False)
        ]
        return weighted[0] if len(weighted) == 1 else list(map(sum, zip(*weighted, strict=False)))
    totals: list[float] = []
    for scores in zip(*generation.by_function, strict=False):
        parts = [s * weight for s, weight in zip(scores, weights, strict=False) if s == s]
        totals.append(sum(parts) if parts else float("nan"))
    return totals


def _numbers(generation: Generation) -> list[float]:
    weights = generation.weights
    if weights is None:
        return [1.0] * len(generation.by_function)
    return list(weights.tolist()) if hasattr(weights, "tolist") else list(weights)


def unscored_ratio(generation: Generation) -> float:
    """Share of completions that a reward function did not score (None or NaN), of the function where it is
    highest."""
    return max(map(_share_of_nan, generation.by_function))


def _has_no_nan(column: Sequence[float]) -> bool:
    """Found out fast, from the sum; False also where infinities cancel out."""
    total = sum(column)
    return total == total


def _share_of_nan(column: Sequence[float]) -> float:
    if _has_no_nan(column):
        return 0.0
    return sum(score != score for score in column) / len(column)


def advantage_deviation(rewards: Sequence[float], group_size: int) -> float | None:
    """Standard deviation of rewards from the mean of their group, over all completions that were scored.

    ``rewards`` has one number per completion, group after group. None where that makes no whole group.
    """
    groups = len(rewards) // group_size if group_size > 0 else 0
    squares = count = 0.0
    for i in range(groups):
        scored = [reward for reward in rewards[i * group_size : (i + 1) * group_size] if reward == reward]
        mean = sum(scored) / len(scored) if scored else 0.0
        squares += sum((reward - mean) ** 2 for reward in scored)
        count += len(scored)
    return (squares / count) ** 0.5 if count else None


def lowest_correlation(by_function: Sequence[Sequence[float]]) -> float | None:
    """The lowest Pearson correlation of two reward functions over the completions that both scored.

    None with a single function. A function that gives all the same correlates with none. Of thousands of functions the
    first :data:`MAX_COMPARED` are compared, since pairs are many more.
    """
    compared = by_function[:MAX_COMPARED]
    found = (correlation(one, other) for one, other in combinations(compared, 2))
    return min((one for one in found if one is not None), default=None)


def correlation(one: Sequence[float], other: Sequence[float], fewest: int = 3) -> float | None:
    """Pearson's, over the pairs of finite numbers; None with less than ``fewest``, or where one is constant."""
    pairs = [(a, b) for a, b in zip(one, other, strict=False) if a - a == 0.0 and b - b == 0.0]
    if len(pairs) < fewest:
        return None
    left, right = zip(*pairs, strict=True)
    first, second = sum(left) / len(pairs), sum(right) / len(pairs)
    lefts, rights = [a - first for a in left], [b - second for b in right]
    covariance = sum(map(mul, lefts, rights))
    product = sum(map(mul, lefts, lefts)) * sum(map(mul, rights, rights))
    return covariance / product**0.5 if product > 1e-18 else None
