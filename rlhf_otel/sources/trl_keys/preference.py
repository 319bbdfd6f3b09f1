"""Trainers that learn from chosen and rejected completions.

``rewards/chosen`` and its kin are implicit rewards (beta times a log-ratio or a log-probability), not reward
functions.
"""

from __future__ import annotations

from typing import Final

_SHARED: Final[dict[str, str]] = {
    "rewards/chosen": "chosen_reward",
    "rewards/rejected": "rejected_reward",
    "rewards/accuracies": "preference_accuracy",
    "rewards/margins": "preference_margin",
    "logps/chosen": "chosen_logprob",
    "logps/rejected": "rejected_logprob",
    "logits/chosen": "chosen_logit",
    "logits/rejected": "rejected_logit",
    "entropy": "data_entropy",
    "mean_token_accuracy": "token_accuracy",
    "nll_loss": "nll_loss",
}

DPO: Final[dict[str, str]] = dict(_SHARED)
"""DPO, CPO, TPO."""

KTO: Final[dict[str, str]] = {**_SHARED, "kl": "kto_kl_baseline"}
"""``kl`` is the baseline that the loss subtracts: clamped at 0, from mismatched pairs of prompt and completion."""

BCO: Final[dict[str, str]] = {**_SHARED, "delta": "reward_shift"}

ORPO: Final[dict[str, str]] = {
    **_SHARED,
    "logps/chosen": "chosen_logprob_per_token",
    "logps/rejected": "rejected_logprob_per_token",
    "log_odds_ratio": "log_odds_ratio",
    "log_odds_chosen": "log_odds",
}
"""Log-probabilities are means over tokens here, sums over a sequence elsewhere."""

_SAMPLED: Final[dict[str, str]] = {
    "objective/kl": "kl_per_sequence",
    "objective/entropy": "sequence_entropy",
    "objective/scores_margin": "score_margin",
}

ONLINE: Final[dict[str, str]] = {
    **_SHARED,
    **_SAMPLED,
    "objective/non_score_reward": "kl_penalty_reward",
    "objective/rlhf_reward": "reward",
    "objective/scores": "score",
    "val/contain_eos_token": "eos_ratio",
}
"""Online DPO: pairs are sampled and ranked while training."""

ONLINE_PASSED: Final[tuple[str, ...]] = ("beta",)

XPO: Final[dict[str, str]] = {
    **_SAMPLED,
    "objective/model_scores": "score",
    "objective/ref_scores": "reference_score",
    "val/model_contain_eos_token": "eos_ratio",
    "val/ref_contain_eos_token": "reference_eos_ratio",
    "loss/dpo": "dpo_loss",
    "loss/xpo": "exploration_loss",
    **{key: signal for key, signal in _SHARED.items() if key.startswith("rewards/")},
}

XPO_PASSED: Final[tuple[str, ...]] = ("alpha", "beta", "logps/chosen", "logps/rejected")
"""Its ``logps/*`` add the policy's and the reference's."""

NASH_MD: Final[dict[str, str]] = {
    "objective/entropy": "sequence_entropy",
    "rewards/chosen": "score",
    "rewards/rejected": "reference_score",
    "rewards/probabilities": "preference_probability",
    "val/model_contain_eos_token": "eos_ratio",
    "val/ref_contain_eos_token": "reference_eos_ratio",
    "loss/score": "nash_score_loss",
    "loss/kl": "nash_kl_loss",
}

NASH_MD_PASSED: Final[tuple[str, ...]] = (
    "beta",
    "mixture_coef",
    "logps/chosen",
    "logps/rejected",
    "rewards/accuracies",
    "rewards/margins",
)
"""Nothing is chosen or rejected here: ``logps/*`` are of one completion under policy and reference, margin and
accuracy compare those two, and ``rewards/*`` are scores of the policy and of its mixture with the reference."""

A2PO: Final[dict[str, str]] = {
    "reward": "reward",
    "v_star": "optimal_value",
    "implicit_reward": "implicit_reward",
    "advantage": "advantage",
}
