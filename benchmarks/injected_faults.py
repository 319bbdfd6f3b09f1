"""Faults of real runs beyond those of the demonstration, and the rules that may name each of them.

Every fault acts on a real trainer at the beginning of one step, as those of ``rlhf_otel.demo.faults`` do.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel.demo import breaking, faults
from rlhf_otel.demo.breaking import Dose, Target
from rlhf_otel.demo.language import MAX_COMPLETION_TOKENS
from rlhf_otel.demo.rewards import RewardFunction

LEAKED_BYTES: Final = 8 * 2**20


class Expected(NamedTuple):
    """What a detector should say about a fault."""

    names: tuple[str, ...]
    """Rules whose name, first, tells what happened."""
    abrupt: bool
    """Whether it shows at once, so that it has to be caught within three steps."""


EXPECTED: Final[dict[str, Expected]] = {
    "learning-rate": Expected(("LearningRateJump", "KLSpike", "KLJump", "KLRunaway"), True),
    "learning-rate-zero": Expected(("LearningRateZero",), True),
    "nan-reward": Expected(("NonFinite",), True),
    "nan-gradient": Expected(("NonFinite",), True),
    "nan-loss": Expected(("NonFinite",), True),
    "none-reward": Expected(("RewardFunctionSilent",), True),
    "constant-reward": Expected(("NoAdvantage", "ZeroAdvantageGroups", "RewardFunctionConstant"), True),
    "noisy-reward": Expected(("RewardSpreadJump",), True),
    "inverted-reward": Expected(("RewardDrop", "RewardCollapse"), True),
    "length-reward": Expected(("RewardDrop", "CompletionLengthExplosion", "TruncationHigh", "RewardSpreadCollapse"), True),
    "corrupted-weights": Expected(("KLJump", "KLSpike", "RewardDrop", "KLRunaway"), True),
    "frozen": Expected(("GradientVanishing", "ParametersNotChanging"), True),
    "slow-reward": Expected(("RewardFunctionSlow", "SlowStep", "ThroughputRegression"), True),
    "stall": Expected(("RunStalled", "SlowStep"), True),
    "memory-leak": Expected(("HostMemoryLeak", "HostMemoryGrowth"), False),
    "truncation": Expected(("TruncationJump", "TruncationHigh", "CompletionLengthJump", "CompletionLengthExplosion"), True),
    "temperature-zero": Expected(("NoAdvantage", "ZeroAdvantageGroups"), True),
    "lost-checkpoint": Expected(("RunFailed",), False),
}  # fmt: skip


def _learning_rate_zero(target: Target, dose: Dose) -> None:
    breaking.raise_learning_rate(target, Dose(dose.step, learning_rate_factor=0.0))


def _none_reward(target: Target, dose: Dose) -> None:
    target.rewards.responses["correctness"] = lambda scores: [None for _ in scores()]  # type: ignore[misc]


def _noisy_reward(target: Target, dose: Dose) -> None:
    rng = random.Random(0)
    for function in target.rewards.functions:
        target.rewards.responses[function.__name__] = lambda scores: [
            s + rng.gauss(0.0, 1.0) for s in scores()
        ]


def _inverted_reward(target: Target, dose: Dose) -> None:
    for function in target.rewards.functions:
        target.rewards.responses[function.__name__] = lambda scores: [1.0 - s for s in scores()]


def _length_reward(target: Target, dose: Dose) -> None:
    for function in target.rewards.functions:
        if isinstance(function, Hackable):
            function.hacked = True


def _corrupted_weights(target: Target, dose: Dose) -> None:
    import torch

    with torch.no_grad():
        for weights in target.trainer.model.parameters():
            if weights.dim() > 1:
                weights.add_(torch.randn_like(weights) * weights.std() * 0.5)


def _frozen(target: Target, dose: Dose) -> None:
    """Everything but the last normalisation, as when the wrong modules are named as trainable."""
    for name, weights in target.trainer.model.named_parameters():
        weights.requires_grad_(name.endswith("model.norm.weight"))


def _memory_leak(target: Target, dose: Dose) -> None:
    kept: list[bytearray] = []

    def leaking(scores: Callable[[], list[float]]) -> list[float]:
        kept.append(bytearray(b"x" * LEAKED_BYTES))
        return scores()

    target.rewards.responses["correctness"] = leaking


def _temperature_zero(target: Target, dose: Dose) -> None:
    target.trainer.generation_config.do_sample = False


def _lost_checkpoint(target: Target, dose: Dose) -> None:
    directory = Path(target.trainer.args.output_dir)
    shutil.rmtree(directory, ignore_errors=True)
    directory.write_text("a file where checkpoints should go", encoding="utf-8")


_EXTRA: Final[dict[str, Callable[[Target, Dose], None]]] = {
    "learning-rate-zero": _learning_rate_zero,
    "none-reward": _none_reward,
    "noisy-reward": _noisy_reward,
    "inverted-reward": _inverted_reward,
    "length-reward": _length_reward,
    "corrupted-weights": _corrupted_weights,
    "frozen": _frozen,
    "memory-leak": _memory_leak,
    "temperature-zero": _temperature_zero,
    "lost-checkpoint": _lost_checkpoint,
}


def fault(name: str) -> faults.Fault:
    """A fault by name: one of these, or of the demonstration."""
    if name in _EXTRA:
        return faults.Fault(name, "", EXPECTED[name].names, _EXTRA[name])
    return faults.FAULTS[name]


class Hackable:
    """A reward function that from some step on pays for length alone."""

    def __init__(self, function: RewardFunction) -> None:
        self._function = function
        self.__name__ = function.__name__
        self.hacked = False

    def __call__(self, completions: list[str], **columns: Any) -> list[float]:
        if self.hacked:
            return [len(text.split()) / MAX_COMPLETION_TOKENS for text in completions]
        return self._function(completions=completions, **columns)


def hackable(functions: Iterable[RewardFunction]) -> list[Hackable]:
    """Make every function hackable."""
    return [Hackable(function) for function in functions]
