"""Trainers that are run with other versions of TRL, and signals that each must have."""

from __future__ import annotations

AT_1_12 = {
    "ppo": {
        "kl_per_sequence",
        "value_loss",
        "policy_ratio",
        "approx_kl",
        "eos_per_completion",
        "learning_rate",
    },
    "bco": {"reward_shift", "chosen_reward", "rejected_reward"},
    "xpo": {"dpo_loss", "exploration_loss", "score", "reference_score", "preference_accuracy"},
    "nashmd": {"nash_score_loss", "nash_kl_loss", "score", "reference_score", "preference_probability"},
    "prm": {"loss", "grad_norm"},
    "minillm": {"reward", "entropy", "completion_length"},
    "ssd": {"nll_loss", "completion_length"},
    "grpowithreplaybuffer": {"reward", "zero_advantage_groups"},
}
AT_0_29 = {
    "grpo": {"kl_per_token", "reward", "entropy", "zero_advantage_groups"},
    "rloo": {"kl_per_token_sampled", "reward"},
    "dpo": {"preference_accuracy", "preference_margin", "chosen_logprob", "data_entropy"},
    "kto": {"kto_kl_baseline", "chosen_reward"},
    "sft": {"token_accuracy", "data_entropy"},
    "reward": {"preference_accuracy", "preference_margin", "score"},
}
