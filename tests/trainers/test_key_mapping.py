"""Each trainer of TRL is run for real, and every key that it logs is a signal or passes through on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_trainers
from transformers import TrainerCallback

from rlhf_otel import faults
from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.sources.run_identity import algorithm_of
from rlhf_otel.sources.trl_logs import Slot, classify

PASSED_THROUGH: dict[str, frozenset[str]] = {
    "onlinedpo": frozenset({"beta"}),
    "iwopd": frozenset(
        {
            "iw_opd/mean_weight",
            "iw_opd/min_weight",
            "iw_opd/max_weight",
            "iw_opd/mean_advantage",
            "iw_opd/mean_abs_advantage",
        }
    ),
}
"""Algorithm to the keys that have no signal of their own; they become ``rlhf_trainer_metric{key}``."""


class LoggedKeys(TrainerCallback):
    """Every key and number of training that the trainer logs."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.per_step: set[str] = set()
        """What was logged before the end of training."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.values.update(logs)
        if state.global_step < state.max_steps:
            self.per_step |= logs.keys()


def unexpected(keys: Any, algorithm: str) -> set[str]:
    """Keys that are neither mapped nor meant to pass through."""
    allowed = PASSED_THROUGH.get(algorithm, frozenset())
    return {key for key in keys if classify(key, algorithm)[0] is Slot.UNMAPPED} - allowed


def run(
    builder: tiny_trainers.Builder, folder: Path, **arguments: Any
) -> tuple[Any, LoggedKeys, TelemetryCallback]:
    logged = LoggedKeys()
    observer = TelemetryCallback(metrics_port="off", journal=folder / "journal")
    trainer = builder(folder, [logged, observer], **arguments)
    trainer.train()
    return trainer, logged, observer


@pytest.mark.parametrize("name", sorted(tiny_trainers.MAIN))
def test_every_key_that_a_trainer_logs_has_a_meaning(name: str, tmp_path: Path) -> None:
    trainer, logged, observer = run(tiny_trainers.MAIN[name], tmp_path)
    algorithm = algorithm_of(trainer)

    assert algorithm == name
    assert not unexpected(logged.values, algorithm)
    assert observer.run is not None
    snapshot = observer.run.pipeline.snapshot
    assert snapshot.step == tiny_trainers.STEPS
    assert not snapshot.unmapped.keys() - PASSED_THROUGH.get(algorithm, frozenset())
    assert not sum(faults.counts().values())


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("rloo", {"kl_per_token_sampled", "reward", "entropy"}),
        ("dpo", {"preference_accuracy", "preference_margin", "chosen_logprob", "data_entropy"}),
        ("kto", {"kto_kl_baseline", "chosen_reward", "rejected_reward"}),
        ("reward", {"preference_accuracy", "score", "score_min", "score_max"}),
        ("sft", {"token_accuracy", "data_entropy"}),
    ],
)
def test_values_of_each_step_are_the_trainers_whatever_its_logging_steps(
    name: str, signals: set[str], tmp_path: Path
) -> None:
    _, logged, observer = run(tiny_trainers.MAIN[name], tmp_path, logging_steps=1000)

    assert observer.run is not None
    snapshot = observer.run.pipeline.snapshot
    assert snapshot.step == tiny_trainers.STEPS
    assert signals <= snapshot.values.keys()
    assert not signals & {classify(key, name)[1] for key in logged.per_step}


def test_one_word_is_another_quantity_in_another_trainer() -> None:
    meanings = {algorithm: classify("kl", algorithm)[1] for algorithm in ("grpo", "rloo", "kto", "asyncgrpo")}

    assert len(set(meanings.values())) == len(meanings)
    assert classify("objective/kl", "ppo")[1] not in meanings.values()
    assert classify("rewards/chosen", "dpo") == (Slot.SIGNAL, "chosen_reward")
    assert classify("rewards/chosen", "grpo") == (Slot.REWARD_FUNCTION_MEAN, "chosen")


def test_a_key_that_trl_adds_is_noticed() -> None:
    assert unexpected(["loss", "brand_new/key"], "dpo") == {"brand_new/key"}


def test_evaluation_never_becomes_a_training_signal(tmp_path: Path) -> None:
    logged = LoggedKeys()
    observer = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal")
    trainer = tiny_trainers.dpo(tmp_path, [logged, observer])
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 2
    trainer.eval_dataset = trainer.train_dataset.select(range(4))
    trainer.train()

    evaluated = {key for key in logged.values if key.startswith("eval_")}
    assert "eval_rewards/accuracies" in evaluated
    assert not unexpected(evaluated, "dpo")
    assert observer.run is not None
    assert "preference_accuracy" in observer.run.pipeline.snapshot.evaluation
    assert observer.run.pipeline.snapshot.evaluations == 2
    steps = [record for record in read_journal(tmp_path / "journal") if record["type"] == "step"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    trained = [step["values"]["preference_accuracy"] for step in steps]
    assert trained == [
        history["rewards/accuracies"] for history in trainer.state.log_history if "loss" in history
    ]
