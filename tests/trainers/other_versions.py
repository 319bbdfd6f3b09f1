"""Trainers that are run with other versions of TRL, and signals that each must have."""

from __future__ import annotations

PAIRS = {"preference_accuracy", "preference_margin", "chosen_logprob", "rejected_logprob"}
OF_GROUPS = {"reward", "entropy", "completion_length", "zero_advantage_groups"}

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
    "grpo-gspo-token": OF_GROUPS,
    "dpo-bema": PAIRS,
}
AT_0_29 = {
    "grpo": {"kl_per_token", *OF_GROUPS},
    "grpo-gspo-token": OF_GROUPS,
    "rloo": {"kl_per_token_sampled", "reward"},
    "dpo": {"data_entropy", *PAIRS},
    "dpo-bema": PAIRS,
    "kto": {"kto_kl_baseline", "chosen_reward"},
    "sft": {"token_accuracy", "data_entropy"},
    "reward": {"preference_accuracy", "preference_margin", "score"},
    "ppo": AT_1_12["ppo"],
    "bco": AT_1_12["bco"],
    "xpo": AT_1_12["xpo"],
    "nashmd": AT_1_12["nashmd"],
    "prm": AT_1_12["prm"],
    "minillm": AT_1_12["minillm"],
    "grpowithreplaybuffer": AT_1_12["grpowithreplaybuffer"],
    "gfpo": {"kl_per_token", *OF_GROUPS},
    "papo": OF_GROUPS,
    "onlinedpo": {"kl_per_sequence", "score", "score_margin", "eos_ratio", "preference_accuracy"},
    "cpo": {"nll_loss", *PAIRS},
    "orpo": {"log_odds", "log_odds_ratio", "preference_accuracy", "chosen_logprob_per_token"},
    "gkd": {"loss", "grad_norm"},
    "gold": {"on_policy_loss", "off_policy_loss", "matched_vocabulary_loss"},
}
"""Algorithm, and after a dash which trainer of it, to signals."""


def algorithm_of(name: str) -> str:
    """The algorithm of a name in these tables."""
    return name.partition("-")[0]
