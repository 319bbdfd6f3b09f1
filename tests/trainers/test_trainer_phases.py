"""Phases of trainers that TRL does not profile, seen by wrappers and hooks that leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_experimental
import tiny_pipelines
import tiny_trainers
from test_key_mapping import run
from tiny_trainers import STEPS

EVERY = {"data", "loss", "backward", "optimizer"}
PHASES: dict[str, set[str]] = {
    "grpo": {*EVERY, "rollout", "generate", "reward", "reward_function", "reference_logprobs", "forward"},
    "dpo": {*EVERY, "reference_logprobs"},
    "kto": {*EVERY, "reference_logprobs"},
    "reward": EVERY,
    "sft": EVERY,
    "distillation": {*EVERY, "rollout", "generate", "reference_logprobs"},
    "asyncgrpo": EVERY,
}
EXPERIMENTAL: dict[str, set[str]] = {
    "cpo": EVERY,
    "orpo": EVERY,
    "tpo": EVERY,
    "gkd": {*EVERY, "reference_logprobs"},
    "a2po": {*EVERY, "rollout", "reward", "reward_function", "reference_logprobs"},
    "onlinedpo": {"data", "backward", "optimizer", "generate", "reward"},
    "sdft": {*EVERY, "rollout", "generate"},
    "sdpo": {*EVERY, "rollout", "generate", "reward"},
    "gold": {*EVERY, "rollout", "reference_logprobs"},
    "iwopd": {*EVERY, "rollout", "generate", "reference_logprobs"},
}
BUILDERS = {**tiny_trainers.MAIN, **tiny_pipelines.PIPELINES, **tiny_experimental.EXPERIMENTAL}


def hooks(trainer: Any) -> int:
    """Forward hooks on models that are not trained."""
    modules = (getattr(trainer, name, None) for name in ("ref_model", "teacher_model"))
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules if m is not None)


def seen(name: str, folder: Path, **arguments: Any) -> tuple[Any, dict[str, int]]:
    kept: list[Any] = []

    def build(*args: Any, **kwargs: Any) -> Any:
        trainer = BUILDERS[name](*args, **kwargs)
        kept.append((set(vars(trainer)), hooks(trainer)))
        return trainer

    trainer, _, observer = run(build, folder, **arguments)
    assert observer.run is not None
    before, hooked = kept[0]
    wrapped = {
        "compute_loss",
        "evaluate",
        "training_step",
        "_generate",
        "_prepare_inputs",
        "get_batch_samples",
    }
    assert not (vars(trainer).keys() - before) & wrapped, "a wrapper is left"
    assert hooks(trainer) == hooked, "a hook is left"
    view = observer.run.view()
    total = sum(view.phase_seconds.values())
    assert view.phase_seconds["other"] < total
    return trainer, dict(view.phase_counts)


@pytest.mark.parametrize("name", sorted(PHASES))
def test_phases(name: str, tmp_path: Path) -> None:
    _, counts = seen(name, tmp_path)

    assert {phase for phase, count in counts.items() if count} >= PHASES[name]
    assert counts["loss"] == STEPS, "once a step: not counted by two seams"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPERIMENTAL))
def test_phases_of_experimental_trainers(name: str, tmp_path: Path) -> None:
    _, counts = seen(name, tmp_path)

    assert {phase for phase, count in counts.items() if count} >= EXPERIMENTAL[name]
    if "loss" in EXPERIMENTAL[name]:
        assert counts["loss"] == STEPS


def test_the_loss_of_an_evaluation_lies_in_the_evaluation(tmp_path: Path) -> None:
    def build(*args: Any, **kwargs: Any) -> Any:
        trainer = tiny_trainers.dpo(*args, **kwargs)
        trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 2
        trainer.eval_dataset = trainer.train_dataset.select(range(8))
        return trainer

    _, _, observer = run(build, tmp_path)
    assert observer.run is not None
    counts = observer.run.view().phase_counts
    assert counts["evaluation"] == 2
    assert counts["loss"] > STEPS


@pytest.mark.parametrize("owner", ["compute_loss", "ref_model"])
def test_a_phase_that_raises_ends_and_the_exception_is_the_trainers(owner: str, tmp_path: Path) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("on purpose")

    def build(*args: Any, **kwargs: Any) -> Any:
        trainer = tiny_trainers.dpo(*args, **kwargs)
        replace: dict[str, Callable[[], None]] = {
            "compute_loss": lambda: setattr(trainer, "compute_loss", fail),
            "ref_model": lambda: setattr(trainer.ref_model, "forward", fail),
        }
        replace[owner]()
        kept.append(trainer)
        return trainer

    kept: list[Any] = []
    with pytest.raises(RuntimeError, match="on purpose"):
        run(build, tmp_path)
    assert hooks(kept[0]) == 0
