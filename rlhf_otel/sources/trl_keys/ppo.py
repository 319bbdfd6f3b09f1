"""PPO (``trl.experimental.ppo`` to TRL 1.12); its older names, and those of RLOO to TRL 0.21."""

from __future__ import annotations

from typing import Final

PPO_BEFORE_0_12: Final[dict[str, str]] = {
    "objective/kl_coef": "kl_coefficient",
    "env/reward_mean": "score",
    "ppo/policy/approxkl": "approx_kl",
    "ppo/policy/clipfrac": "clip_region_ratio",
    "ppo/policy/entropy": "entropy",
    "ppo/loss/policy": "policy_loss",
    "ppo/loss/value": "value_loss",
    "ppo/val/clipfrac": "value_clip_ratio",
    "ppo/learning_rate": "learning_rate",
}
"""As PPO logged to TRL 0.11: in logs that are replayed."""

PPO: Final[dict[str, str]] = {
    "objective/kl": "kl_per_sequence",
    "objective/entropy": "sequence_entropy",
    "objective/non_score_reward": "kl_penalty_reward",
    "objective/rlhf_reward": "reward",
    "objective/scores": "score",
    "policy/approxkl_avg": "approx_kl",
    "policy/clipfrac_avg": "clip_region_ratio",
    "policy/entropy_avg": "entropy",
    "loss/policy_avg": "policy_loss",
    "loss/value_avg": "value_loss",
    "val/clipfrac_avg": "value_clip_ratio",
    "val/ratio": "policy_ratio",
    "val/ratio_var": "policy_ratio_variance",
    "val/num_eos_tokens": "eos_tokens",
    "lr": "learning_rate",
    "episode": "episodes",
    "eps": "episodes_per_second",
    **PPO_BEFORE_0_12,
}

PPO_DERIVED: Final = frozenset({"eos_per_completion", "kl_policy_loss_ratio", "value_policy_loss_ratio"})
"""Signals that follow from these (``sources/ppo_cells.py``); no other trainer has them."""
