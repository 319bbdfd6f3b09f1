"""Further ways in which real runs go wrong, one run each: evidence for rules that the benchmark's faults do not reach.

python benchmarks/injected_runs.py CACHE --only rare
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from rlhf_otel.demo import faults
from rlhf_otel.demo.breaking import Dose, Target, raise_learning_rate


class Rare(NamedTuple):
    """A run: what differs in its configuration from the first step on, and what strikes later."""

    rules: tuple[str, ...]
    """Rules that it is evidence for."""
    changes: dict[str, Any]
    strike: Callable[[Target, Dose], None] | None = None
    steps: int = 80


def _huge_learning_rate(target: Target, dose: Dose) -> None:
    raise_learning_rate(target, Dose(dose.step, learning_rate_factor=1000.0))


def _on_gradients(target: Target, factor: Callable[[], float]) -> None:
    for weights in target.trainer.model.parameters():
        weights.register_hook(lambda gradient: gradient * factor())


def _no_gradient(target: Target, dose: Dose) -> None:
    _on_gradients(target, lambda: 0.0)


def _one_large_gradient(target: Target, dose: Dose) -> None:
    trainer = target.trainer
    _on_gradients(target, lambda: 1000.0 if trainer.state.global_step == dose.step - 1 else 1.0)


def _sure_to_say(word: str) -> Callable[[Target, Dose], None]:
    def strike(target: Target, dose: Dose) -> None:
        tokenizer = target.trainer.processing_class
        token = tokenizer.convert_tokens_to_ids(word)
        target.trainer.generation_config.sequence_bias = [[[token], 50.0]]

    return strike


def _cut_short(target: Target, dose: Dose) -> None:
    """Completions of one to three words."""
    tokenizer = target.trainer.processing_class
    target.trainer.generation_config.sequence_bias = [[[tokenizer.eos_token_id], 3.0]]


def _never_save(target: Target, dose: Dose) -> None:
    from transformers import TrainerCallback

    class Forget(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_save = False
            return control

    target.trainer.add_callback(Forget())


def _hacked_in_training(target: Target, dose: Dose) -> None:
    """A reward that pays four times as much in training as the same answers earn in evaluation."""

    def hacked(scores: Callable[[], list[float]]) -> list[float]:
        factor = 4.0 if target.trainer.model.training else 1.0
        return [factor * score for score in scores()]

    target.rewards.responses["correctness"] = hacked


def _entropy_bonus(coefficient: float) -> Callable[[Target, Dose], None]:
    """A bonus that outweighs the reward; below 0 it is a penalty."""

    def strike(target: Target, dose: Dose) -> None:
        target.trainer.entropy_coef = coefficient

    return strike


def _slow_training(target: Target, dose: Dose) -> None:
    backward = target.trainer.accelerator.backward

    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(1.2)
        return backward(*args, **kwargs)

    target.trainer.accelerator.backward = slow


def _swapped_pairs(target: Target, dose: Dose) -> None:
    """Rejected completions are taken for chosen ones: the halves of each batch change places."""
    trainer = target.trainer
    training_step = trainer.training_step

    def swapped(model: Any, inputs: dict[str, Any], *more: Any) -> Any:
        turned = {key: value.roll(len(value) // 2, 0) for key, value in inputs.items()}
        return training_step(model, turned, *more)

    trainer.training_step = swapped


RARE: Final[dict[str, Rare]] = {
    "swapped-pairs": Rare(
        ("PreferenceBelowChance", "PreferenceMarginCollapse"),
        {"trainer": "dpo", "learning_rate": 4e-5},
        _swapped_pairs,
        110,
    ),
    "rloo-learning-rate": Rare(("SampledKLRunaway",), {"trainer": "rloo"}, raise_learning_rate, 70),
    "sharpened": Rare(
        ("EntropyDrift", "EntropyFalling", "EntropyCollapse", "RewardSaturated"),
        {"learning_rate": 1e-3},
        _entropy_bonus(-1.0),
        160,
    ),
    "entropy-bonus": Rare(
        ("EntropyExplosion", "RewardDrift"), {"learning_rate": 5e-4, "beta": 0.0}, _entropy_bonus(0.5), 90
    ),
    "huge-learning-rate": Rare(("LearningRateOutOfRange",), {}, _huge_learning_rate, 60),
    "no-gradient": Rare(("ParametersNotChanging",), {}, _no_gradient, 60),
    "large-gradient": Rare(("GradientNormSpike",), {}, _one_large_gradient, 60),
    "short-limit": Rare(
        ("TruncationHigh", "MaskedShareHigh"),
        {"max_completion_length": 4, "mask_truncated_completions": True},
        steps=40,
    ),
    "constant": Rare(("ZeroAdvantageGroups",), {"reward": "constant"}, steps=30),
    "one-constant": Rare(("RewardFunctionConstant",), {"reward": "one-constant"}),
    "conflict": Rare(("RewardFunctionsInConflict",), {"reward": "conflict"}, steps=40),
    "too-hard": Rare(("PromptsTooHard",), {"reward": "too-hard"}, steps=40),
    "empty": Rare(("EmptyCompletions",), {}, _sure_to_say("<eos>"), 60),
    "cut-short": Rare(("CompletionLengthCollapse",), {}, _cut_short, 70),
    "one-word": Rare(("RepetitionHigh",), {}, _sure_to_say("um"), 70),
    "never-saved": Rare(("CheckpointOverdue",), {"save_steps": 10}, _never_save, 75),
    "hacked": Rare(("RewardHackingSuspected",), {"eval_steps": 10}, _hacked_in_training, 80),
    "slow-training": Rare(("ThroughputRegression",), {}, _slow_training, 75),
    "many-updates": Rare(("ClipFractionHigh",), {"num_iterations": 6, "learning_rate": 3e-3}, steps=80),
}


def fault(name: str) -> faults.Fault:
    """What strikes in a rare run; nothing where it is wrong from the first step."""
    rare = RARE[name]
    return faults.Fault(name, "", rare.rules, rare.strike or (lambda target, dose: None))


REWARDS: Final[dict[str, Callable[[list[Any]], list[Any]]]] = {}


def _rewards(name: str) -> Callable[[Callable[[list[Any]], list[Any]]], Callable[[list[Any]], list[Any]]]:
    def keep(make: Callable[[list[Any]], list[Any]]) -> Callable[[list[Any]], list[Any]]:
        REWARDS[name] = make
        return make

    return keep


def _answering(function: Any, scores: Callable[[list[float], list[str]], list[float]]) -> Any:
    def answer(completions: list[str], **columns: Any) -> list[float]:
        return scores(function(completions=completions, **columns), completions)

    answer.__name__ = function.__name__
    return answer


@_rewards("constant")
def _constant(functions: list[Any]) -> list[Any]:
    return [_answering(f, lambda scores, texts: [1.0 for _ in scores]) for f in functions]


@_rewards("one-constant")
def _one_constant(functions: list[Any]) -> list[Any]:
    return [functions[0], _constant(functions[1:2])[0], functions[2]]


@_rewards("conflict")
def _conflict(functions: list[Any]) -> list[Any]:
    long = _answering(functions[1], lambda scores, texts: [float(len(text.split())) for text in texts])
    short = _answering(functions[2], lambda scores, texts: [-float(len(text.split())) for text in texts])
    return [functions[0], long, short]


@_rewards("too-hard")
def _too_hard(functions: list[Any]) -> list[Any]:
    """Only long answers that are wholly right count, and nothing else does."""
    hard = _answering(
        functions[0],
        lambda scores, texts: [
            float(s > 0.99 and len(t.split()) > 7) for s, t in zip(scores, texts, strict=True)
        ],
    )
    nothing = [_answering(f, lambda scores, texts: [0.0 for _ in scores]) for f in functions[1:]]
    return [hard, *nothing]
