"""Sections about what is learned from pairs of completions, given or sampled."""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards.learning import EVALUATION, NOT_LOGGED
from rlhf_otel.dashboards.panels import signals
from rlhf_otel.dashboards.ppo_sections import KL_SEQUENCE, SEQUENCE_ENTROPY
from rlhf_otel.dashboards.spec import Section

ACCURACY: Final = signals(
    "Accuracy",
    ["preference_accuracy"],
    "Above 50 %, the flip of a coin, and rising is good; 100 % is memory.",
    empty=NOT_LOGGED,
    whole=True,
)
MARGIN: Final = signals("Margin", ["preference_margin"], "Rising is good.", empty=NOT_LOGGED)
IMPLICIT: Final = signals(
    "Chosen and rejected rewards",
    ["chosen_reward", "rejected_reward"],
    "Chosen rising and rejected falling is good; both falling is likelihood displacement.",
    empty=NOT_LOGGED,
)
LOGPROBS: Final = signals(
    "Log-probabilities",
    ["chosen_logprob", "rejected_logprob"],
    "Chosen level or rising is good (LikelihoodDisplacement: both fall).",
    empty=NOT_LOGGED,
)
LOGITS: Final = signals("Logits", ["chosen_logit", "rejected_logit"], "Level is good.", empty=NOT_LOGGED)
OFFLINE: Final = Section(
    "Preferences",
    (
        ACCURACY,
        MARGIN,
        IMPLICIT,
        LOGPROBS,
        LOGITS,
        signals("Entropy on the data", ["data_entropy"], "Level is good.", empty=NOT_LOGGED, minimum=0.0),
        signals(
            "Token accuracy", ["token_accuracy"], "Level or rising is good.", empty=NOT_LOGGED, whole=True
        ),
        EVALUATION,
    ),
)
KTO_ORPO: Final = Section(
    "KTO, ORPO, BCO",
    (
        signals(
            "KTO: KL baseline",
            ["kto_kl_baseline"],
            "Above 0 and level is good.",
            empty="only KTO has it",
            minimum=0.0,
        ),
        signals(
            "ORPO: log-probabilities",
            ["chosen_logprob_per_token", "rejected_logprob_per_token"],
            "Chosen above rejected is good.",
            empty="only ORPO has them",
        ),
        signals(
            "ORPO: log odds", ["log_odds", "log_odds_ratio"], "Rising is good.", empty="only ORPO has them"
        ),
    ),
    folded=True,
)
PAIRED: Final = Section(
    "Policy and preferences",
    (
        signals(
            "Reward and score",
            ["reward", "score", "kl_penalty_reward"],
            "Both rising is good.",
            empty=NOT_LOGGED,
        ),
        KL_SEQUENCE,
        SEQUENCE_ENTROPY,
        ACCURACY,
        MARGIN,
        IMPLICIT,
        LOGPROBS,
        signals("Completions that end", ["eos_ratio"], "Near 100 % is good.", empty=NOT_LOGGED, whole=True),
    ),
)
