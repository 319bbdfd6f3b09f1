"""Distillation: a student learns from a teacher's distributions, often on its own completions."""

from __future__ import annotations

from typing import Final

from rlhf_otel.sources.trl_keys.common import COMPLETIONS
from rlhf_otel.sources.trl_keys.group_policy import GRPO
from rlhf_otel.sources.trl_keys.supervised import SFT

DISTILLATION: Final[dict[str, str]] = {
    **COMPLETIONS,
    "entropy": "entropy",
    "jsd": "distillation_divergence",
    "teacher_entropy": "teacher_entropy",
}

OFF_POLICY: Final[dict[str, str]] = {
    **COMPLETIONS,
    **SFT,
    "completions/on_policy_mean_length": "completion_length",
    "completions/on_policy_min_length": "completion_length_min",
    "completions/on_policy_max_length": "completion_length_max",
    "on_policy_loss": "on_policy_loss",
    "off_policy_loss": "off_policy_loss",
    "matched_loss": "matched_vocabulary_loss",
    "unmatched_loss": "unmatched_vocabulary_loss",
}
"""GKD, GOLD and IW-OPD: partly on data, as in supervised fine-tuning."""

OFF_POLICY_PASSED: Final[tuple[str, ...]] = ("completions/off_policy_*_length", "iw_opd/*")

SELF_DISTILLATION: Final[dict[str, str]] = {
    **COMPLETIONS,
    "self_distillation/distillation_loss": "distillation_loss",
    "sdft/distillation_loss": "distillation_loss",
    "sdpo/distillation_loss": "distillation_loss",
    "self_distillation/policy_loss": "policy_loss",
    "self_distillation/reward_mean": "reward",
    "self_distillation/reward_std": "reward_std",
    "self_distillation/flat_group_fraction": "reward_zero_std_ratio",
    "ssd/cross_entropy_loss": "nll_loss",
}

SELF_DISTILLATION_PASSED: Final[tuple[str, ...]] = (
    "self_distillation/*_fraction",
    "self_distillation/group_reward_std_mean",
    "self_distillation/reward_min",
    "self_distillation/reward_max",
    "self_distillation/server_logprob_abs_diff",
    "ssd/active_sample_ratio",
)

MINILLM: Final[dict[str, str]] = dict(GRPO)
