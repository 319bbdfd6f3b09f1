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
    "on_policy_loss": "on_policy_loss",
    "off_policy_loss": "off_policy_loss",
    "matched_loss": "matched_vocabulary_loss",
    "unmatched_loss": "unmatched_vocabulary_loss",
}
"""GKD, GOLD and IW-OPD: partly on data, as in supervised fine-tuning."""

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

MINILLM: Final[dict[str, str]] = dict(GRPO)
