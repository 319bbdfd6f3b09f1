"""Groups of completions, from the buffers that the trainer has already gathered.

TRL's ``frac_reward_zero_std`` is not the share of groups without advantage: with ``scale_rewards="batch"`` it is 0
where half of the groups are dead, and RLOO takes it after the KL penalty.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

TOLERANCE: Final = 1e-6
"""Relative spread of a group's rewards below which float32 rounding explains it."""


def zero_advantage_ratio(rewards: Sequence[float], group_size: int) -> float | None:
    """Share of groups whose completions all got the same reward (NaN, a completion nobody scored, is left out).

    ``rewards`` has one number per completion, group after group. None where that makes no whole group.
    """
    groups = len(rewards) // group_size if group_size > 0 else 0
    if groups == 0:
        return None
    dead = sum(_dead(rewards[i * group_size : (i + 1) * group_size]) for i in range(groups))
    return dead / groups


def _dead(group: Sequence[float]) -> bool:
    scored = [reward for reward in group if reward == reward]
    if len(scored) < 2:
        return True
    low, high = min(scored), max(scored)
    return high - low <= TOLERANCE * max(1.0, abs(low), abs(high))


def weighted_rewards(by_function: Iterable[Sequence[float]], weights: Sequence[float]) -> list[float]:
    """Reward of each completion: the weighted sum over the functions that scored it; NaN where none did."""
    totals: list[float] = []
    for scores in zip(*by_function, strict=False):
        parts = [score * weight for score, weight in zip(scores, weights, strict=False) if score == score]
        totals.append(sum(parts) if parts else float("nan"))
    return totals


def of_trainer(trainer: Any) -> float | None:
    """Share of the last generation's groups without advantage; None where the trainer keeps no such buffers."""
    logs = getattr(trainer, "_logs", None)
    group_size = getattr(trainer, "num_generations", 0)
    if not isinstance(logs, dict) or not logs.get("rewards") or not group_size or group_size < 2:
        return None
    functions = list(logs["rewards"].values())
    weights = getattr(trainer, "reward_weights", None)
    numbers = weights.tolist() if weights is not None else [1.0] * len(functions)
    return zero_advantage_ratio(weighted_rewards(functions, numbers), int(group_size))
