"""Which algorithm a log is of, by the keys that it alone logs; no log says it itself."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_TELLING: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("orpo", ("rewards/chosen", "log_odds_chosen")),
    ("onlinedpo", ("rewards/chosen", "objective/kl")),
    ("kto", ("rewards/chosen", "kl")),
    ("bco", ("rewards/chosen", "delta")),
    ("dpo", ("rewards/chosen",)),
    ("ppo", ("objective/kl", "loss/value_avg")),
    ("reward", ("min_reward", "max_reward")),
    ("gkd", ("on_policy_loss", "off_policy_loss")),
    ("distillation", ("jsd",)),
    ("asyncgrpo", ("reward", "sample/staleness_mean")),
    ("grpo", ("reward", "reward_std")),
)
"""Algorithm and the keys that tell it; the first whose keys are all there."""


@lru_cache(maxsize=256)
def algorithm_of(keys: tuple[str, ...]) -> str:
    """The algorithm as in ``RunIdentity.algorithm``; empty where keys do not tell. RLOO's are GRPO's."""
    for algorithm, telling in _TELLING:
        if all(key in keys for key in telling):
            return algorithm
    # GRPO with a Liger loss logs it too.
    return "sft" if "mean_token_accuracy" in keys and "reward" not in keys else ""
