"""Reward models and supervised fine-tuning."""

from __future__ import annotations

from typing import Final

REWARD: Final[dict[str, str]] = {
    "min_reward": "score_min",
    "mean_reward": "score",
    "max_reward": "score_max",
    "accuracy": "preference_accuracy",
    "margin": "preference_margin",
}

SFT: Final[dict[str, str]] = {
    "mean_token_accuracy": "token_accuracy",
    "entropy": "data_entropy",
}

PRM: Final[dict[str, str]] = {"accuracy": "token_accuracy"}
"""The accuracy of a process reward model is over labelled steps, not over pairs."""
