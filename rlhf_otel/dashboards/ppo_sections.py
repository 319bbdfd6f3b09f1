"""Sections about what PPO learns: a policy and a value function."""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards.learning import NOT_LOGGED
from rlhf_otel.dashboards.panels import signals
from rlhf_otel.dashboards.spec import Section

KL_SEQUENCE: Final = signals(
    "KL to the reference",
    ["kl_per_sequence"],
    "Slowly rising is usual; far below 0 means that log-probabilities are not those of the policy.",
    empty=NOT_LOGGED,
)
SEQUENCE_ENTROPY: Final = signals(
    "Entropy of a completion", ["sequence_entropy"], "Slowly falling is usual.", empty=NOT_LOGGED, minimum=0.0
)
SCORE: Final = signals(
    "Score", ["score"], "What the reward model says; rising, then level, is good.", empty=NOT_LOGGED
)
PPO_ENTROPY: Final = signals(
    "Entropy", ["entropy"], "Slowly falling is usual.", empty=NOT_LOGGED, minimum=0.0
)
PPO_POLICY: Final = Section(
    "Policy",
    (
        signals(
            "Reward and score",
            ["reward", "score", "kl_penalty_reward"],
            "The reward is the score less the KL penalty: both rising is good; a "
            "score that rises while the reward falls is paid for with KL.",
            empty=NOT_LOGGED,
        ),
        KL_SEQUENCE,
        SEQUENCE_ENTROPY,
        PPO_ENTROPY,
        signals(
            "Clipped tokens", ["clip_region_ratio"], "Some per cent is usual.", empty=NOT_LOGGED, minimum=0.0
        ),
        signals(
            "KL to the rollout's policy",
            ["approx_kl"],
            "Some hundredths is usual; more: fewer epochs or a lower learning rate.",
            empty=NOT_LOGGED,
            minimum=0.0,
        ),
        signals(
            "Policy ratio",
            ["policy_ratio", "policy_ratio_variance"],
            "Around 1, with a variance near 0, is good.",
            empty=NOT_LOGGED,
        ),
        signals(
            "KL penalty over policy loss",
            ["kl_policy_loss_ratio"],
            "Of the order of 1 is good: far above, only the penalty is learned.",
            empty="absent while the policy loss is too near 0 for a quotient",
        ),
        signals(
            "End tokens per completion",
            ["eos_per_completion"],
            "Near 1 is good: 0 means that completions never end.",
            empty="no stop token or penalty asks for one",
            minimum=0.0,
        ),
    ),
)
VALUE: Final = Section(
    "Value function",
    (
        signals(
            "Value loss",
            ["value_loss"],
            "Falling, then level, is good.",
            empty=NOT_LOGGED,
            minimum=0.0,
            logarithmic=True,
        ),
        signals("Clipped values", ["value_clip_ratio"], "Low is good.", empty=NOT_LOGGED, whole=True),
        signals(
            "Value loss over policy loss",
            ["value_policy_loss_ratio"],
            "Of the order of 1 is good: far above, a shared trunk learns values alone.",
            empty="absent while the policy loss is too near 0 for a quotient",
        ),
        signals("Policy loss", ["policy_loss"], "Level is good; a spike says much.", empty=NOT_LOGGED),
    ),
)
