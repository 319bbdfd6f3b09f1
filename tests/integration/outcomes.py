"""What came out of a training run, to the last bit: observed and unobserved runs must not differ in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tiny import RewardFunction, build_trainer, numbers, variety
from transformers import TrainerCallback

STEPS = 8


class Outcome(NamedTuple):
    """Digests and numbers of a run that has ended."""

    history: list[dict[str, float]]
    """What the trainer logged, without its own clock readings."""
    rewards: list[float]
    weights: dict[str, str]
    randomness: str
    """The generators' states afterwards."""


def outcome(folder: Path, callbacks: Sequence[TrainerCallback] = (), **arguments: Any) -> Outcome:
    """Train with these callbacks; ``arguments`` are those of GRPOConfig."""
    rewards: list[float] = []

    def recorded(function: RewardFunction) -> RewardFunction:
        def score(completions: list[str], **kwargs: Any) -> Any:
            scores = function(completions, **kwargs)
            rewards.extend(scores)
            return scores

        score.__name__ = function.__name__
        return score

    defaults: dict[str, Any] = {"max_steps": STEPS, "logging_steps": 1}
    trainer = build_trainer(
        folder, callbacks, reward_funcs=[recorded(variety), recorded(numbers)], **{**defaults, **arguments}
    )
    trainer.train()
    state = trainer.model.state_dict()
    return Outcome(
        [
            {key: value for key, value in row.items() if not _is_time(key)}
            for row in trainer.state.log_history
        ],
        rewards,
        {name: sha256(weights.detach().numpy().tobytes()).hexdigest() for name, weights in state.items()},
        _randomness(),
    )


def _is_time(key: str) -> bool:
    return key.endswith(("runtime", "per_second", "step_time"))


def _randomness() -> str:
    states = (torch.get_rng_state().numpy().tobytes(), repr(random.getstate()), repr(np.random.get_state()))
    return sha256(repr(states).encode()).hexdigest()
