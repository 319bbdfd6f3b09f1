"""The signals that tell a run in few numbers, for whoever has room for some only."""

from __future__ import annotations

from typing import Final

HEADLINES: Final = (
    "reward", "score", "preference_accuracy", "preference_margin", "kl_per_token", "kl_per_sequence",
    "kl_per_token_sampled", "entropy", "loss", "value_loss", "grad_norm", "completion_length", "truncated_ratio",
    "token_accuracy", "zero_advantage_groups", "step_duration", "tokens_per_second",
)  # fmt: skip
"""In their order of importance; a run has some of them."""
