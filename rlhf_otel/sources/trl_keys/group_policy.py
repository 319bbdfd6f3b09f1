"""GRPO, RLOO and what inherits from them: groups of completions, scored by reward functions."""

from __future__ import annotations

from typing import Final

from rlhf_otel.sources.trl_keys.common import COMPLETIONS

_SHARED: Final[dict[str, str]] = {
    **COMPLETIONS,
    "policy_loss": "policy_loss",
    "entropy": "entropy",
    "entropy_coef": "entropy_coefficient",
    "clip_ratio": "clip_region_ratio",
    "clip_ratio/low_mean": "clip_low_ratio",
    "clip_ratio/low_min": "clip_low_min_ratio",
    "clip_ratio/high_mean": "clip_high_ratio",
    "clip_ratio/high_max": "clip_high_max_ratio",
    "clip_ratio/region_mean": "clip_region_ratio",
    "cispo_clip_ratio": "cispo_clip_ratio",
    "vespo/phi_seq_mean": "vespo_phi_mean",
    "sampling/sampling_logp_difference/mean": "sampling_logp_difference_mean",
    "sampling/sampling_logp_difference/max": "sampling_logp_difference_max",
    "sampling/importance_sampling_ratio/min": "importance_weight_min",
    "sampling/importance_sampling_ratio/mean": "importance_weight_mean",
    "sampling/importance_sampling_ratio/max": "importance_weight_max",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "reward_zero_std_ratio",
}

GRPO: Final[dict[str, str]] = {**_SHARED, "kl": "kl_per_token"}

RLOO: Final[dict[str, str]] = {**_SHARED, "kl": "kl_per_token_sampled"}
"""``kl`` is the signed k1 estimate of the policy that generated, not GRPO's k3 of the one being trained."""
