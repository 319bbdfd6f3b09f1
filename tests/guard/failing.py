"""Real GRPO runs in which one update is bad: a reward function returns a number that is too large to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import build_trainer, variety
from transformers import TrainerCallback
from trl import GRPOTrainer

from rlhf_otel import TelemetryCallback

BAD_CALL = 4


def huge_reward(*bad_calls: int) -> Any:
    """3e38 for one completion, at each of these calls: finite by itself, but no gradient that it gives is."""
    calls = iter(range(1, 10_000))

    def sometimes_huge(completions: list[str], **_: Any) -> list[float]:
        bad, scores = next(calls) in bad_calls, variety(completions)
        return [3e38, *scores[1:]] if bad else scores

    return sometimes_huge


def telemetry(guard: str = "drop", **settings: Any) -> TelemetryCallback:
    return TelemetryCallback(metrics_port="off", linger_s=0, guard=guard, **settings)


def failing_trainer(
    folder: Path, callbacks: Sequence[TrainerCallback], *bad_calls: int, **arguments: Any
) -> GRPOTrainer:
    """At each of ``bad_calls``, by default the fourth, the reward makes the gradient infinite."""
    reward = huge_reward(*(bad_calls or (BAD_CALL,)))
    settings = {"max_steps": 10, "scale_rewards": "none", **arguments}
    return build_trainer(folder, callbacks, reward_funcs=[reward], **settings)


def bundles(folder: Path) -> list[Path]:
    return sorted((folder / "out" / "rlhf_otel" / "bundles").glob("*"))


def finite(trainer: GRPOTrainer) -> bool:
    return all(bool(weights.isfinite().all()) for weights in trainer.model.parameters())
