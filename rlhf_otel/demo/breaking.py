"""How each fault is really done: to a running trainer, or to what its reward functions answer."""

from __future__ import annotations

import functools
import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rlhf_otel.demo.rewards import RewardFunction

Response = Callable[[Callable[[], list[float]]], list[float]]
"""What a reward function answers, given a way to ask for the true scores."""


@dataclass(frozen=True)
class Dose:
    """How much of a fault: from which step on (counted from 1), and how strong."""

    step: int
    learning_rate_factor: float = 100.0
    slow_seconds: float = 0.25
    stall_seconds: float = 45.0


@dataclass
class BreakableRewards:
    """Reward functions that answer truly until a fault sets another response.

    The response is given inside the function that the trainer holds: whoever wraps that function, telemetry
    among them, sees the answer as they would see any other.
    """

    functions: list[RewardFunction]
    responses: dict[str, Response] = field(default_factory=dict)

    @classmethod
    def of(cls, functions: Iterable[RewardFunction]) -> BreakableRewards:
        """Make these functions breakable, under their own names."""
        rewards = cls([])
        rewards.functions.extend(rewards._breakable(function) for function in functions)
        return rewards

    def _breakable(self, function: RewardFunction) -> RewardFunction:
        @functools.wraps(function)
        def answer(*args: Any, **kwargs: Any) -> list[float]:
            def scores() -> list[float]:
                return function(*args, **kwargs)

            response = self.responses.get(function.__name__)
            return scores() if response is None else response(scores)

        return answer


@dataclass(frozen=True)
class Target:
    """What a fault can get at. The trainer is ``Any`` since faults replace the methods of an instance."""

    trainer: Any
    rewards: BreakableRewards


def nothing(target: Target, dose: Dose) -> None:
    """Leave the run alone."""


def raise_learning_rate(target: Target, dose: Dose) -> None:
    """Multiply the rate in the optimizer, and in the schedule that would put it back."""
    trainer = target.trainer
    schedule = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
    schedule.base_lrs = [rate * dose.learning_rate_factor for rate in schedule.base_lrs]
    for group in trainer.optimizer.param_groups:
        group["lr"] *= dose.learning_rate_factor


def poison_gradient(target: Target, dose: Dose) -> None:
    """Let backward leave NaN in one tensor; clipping spreads it over all of them."""
    weights = next(weights for weights in target.trainer.model.parameters() if weights.requires_grad)
    weights.register_hook(lambda gradient: gradient * math.nan)


def poison_loss(target: Target, dose: Dose) -> None:
    """Add a constant to the loss: its value is lost, its gradient is not."""
    compute_loss = target.trainer.compute_loss

    @functools.wraps(compute_loss)
    def poisoned(*args: Any, **kwargs: Any) -> Any:
        return compute_loss(*args, **kwargs) + math.nan

    target.trainer.compute_loss = poisoned


def never_end(target: Target, dose: Dose) -> None:
    """Forbid the tokens that end a completion."""
    tokenizer = target.trainer.processing_class
    target.trainer.generation_config.suppress_tokens = [tokenizer.eos_token_id, tokenizer.pad_token_id]


def kill(target: Target, dose: Dose) -> None:
    """Die as under the kernel's out-of-memory killer: no handler runs, nothing is said."""
    os.kill(os.getpid(), signal.SIGKILL)


def nan_reward(target: Target, dose: Dose) -> None:
    """Let the heaviest reward function fail with NaN."""
    target.rewards.responses["correctness"] = lambda scores: [math.nan for _ in scores()]


def constant_reward(target: Target, dose: Dose) -> None:
    """Let every reward function pass everything."""
    for function in target.rewards.functions:
        target.rewards.responses[function.__name__] = lambda scores: [1.0 for _ in scores()]


def slow_reward(target: Target, dose: Dose) -> None:
    """Let one reward function wait at each call."""

    def slow(scores: Callable[[], list[float]]) -> list[float]:
        time.sleep(dose.slow_seconds)
        return scores()

    target.rewards.responses["correctness"] = slow


def stall(target: Target, dose: Dose) -> None:
    """Let one reward function block, once."""
    waits = iter([dose.stall_seconds])

    def stalled(scores: Callable[[], list[float]]) -> list[float]:
        time.sleep(next(waits, 0.0))
        return scores()

    target.rewards.responses["correctness"] = stalled


def crash(target: Target, dose: Dose) -> None:
    """Let one reward function raise."""

    def crashed(scores: Callable[[], list[float]]) -> list[float]:
        raise ConnectionError("the reward service hung up (injected by the demo)")

    target.rewards.responses["correctness"] = crashed
