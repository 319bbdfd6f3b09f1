"""Following rollouts where a trainer differs from the real ones of ``tests/integration/test_rollout_links.py``."""

from __future__ import annotations

import logging
import queue
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_otel import faults
from rlhf_otel.records import Rollouts
from rlhf_otel.sources.rollouts import MAX_GROUPS, RolloutVersions
from rlhf_otel.sources.wrapping import Wrappers


class Trainer:
    """What is asked of an asynchronous trainer."""

    def __init__(self, accumulated: int = 1, started_at: int = 0) -> None:
        self.model_version = 0
        self.state = SimpleNamespace(global_step=started_at)
        self.args = SimpleNamespace(gradient_accumulation_steps=accumulated)
        self._rollout_dataset = SimpleNamespace(queue=queue.Queue())
        self.rollout_worker = SimpleNamespace(update_model_version=lambda version: version)
        collator = SimpleNamespace(torch_call=lambda batch: batch)
        self.callback_handler = SimpleNamespace(train_dataloader=SimpleNamespace(collate_fn=collator))

    def training_step(self, model: Any) -> str:
        return "loss"

    def pack(self, *versions: int, key: str = "group_id") -> None:
        """Samples of these versions leave the queue and become a micro-batch."""
        rows = []
        for number, version in enumerate(versions):
            group = object() if key == "group_id" else number
            self._rollout_dataset.queue.put(SimpleNamespace(**{key: group, "model_version": version}))
            sample = self._rollout_dataset.queue.get()
            rows.append({key: vars(sample)[key]})
        self.callback_handler.train_dataloader.collate_fn.torch_call([[rows]])

    def train(self) -> None:
        assert self.training_step(None) == "loss"

    def sync(self, version: int, after_step: int) -> None:
        self.state.global_step = after_step
        self.rollout_worker.update_model_version(version)


def followed(trainer: Any) -> tuple[RolloutVersions, Wrappers]:
    versions, wrappers = RolloutVersions(trainer), Wrappers()
    assert versions.attach(wrappers)
    return versions, wrappers


@pytest.mark.parametrize("key", ["group_id", "prompt_id"])
def test_a_micro_batch_is_trained_on_in_its_turn(key: str) -> None:
    trainer = Trainer()
    versions, _ = followed(trainer)
    trainer.sync(1, after_step=0)
    trainer.sync(2, after_step=5)
    trainer.pack(1, 1, 2, key=key)
    trainer.pack(2, key=key)
    trainer.train()
    assert versions.take() == [Rollouts(5, 1), Rollouts(0, 2, inherited=True)]
    trainer.train()
    assert versions.take() == [Rollouts(5, 1)]
    assert versions.take() == []


def test_a_resumed_attempt_begins_with_the_weights_of_its_checkpoint() -> None:
    trainer = Trainer(started_at=40)
    versions, _ = followed(trainer)
    trainer.sync(41, after_step=40)
    trainer.sync(42, after_step=41)
    trainer.pack(41, 42)
    trainer.train()
    assert versions.take() == [Rollouts(41, 1), Rollouts(40, 1, inherited=True)]


def test_batches_that_a_resumed_run_skips_are_no_rollouts_of_its_steps() -> None:
    trainer = Trainer(accumulated=2)
    versions, _ = followed(trainer)
    trainer.sync(7, after_step=3)
    for _ in range(5):
        trainer.pack(0)
    for _ in range(3):
        trainer.pack(7)
    trainer.train()
    trainer.train()
    assert versions.take() == [Rollouts(3, 2)]


def test_of_a_version_that_nobody_knows_nothing_is_said() -> None:
    trainer = Trainer()
    versions, _ = followed(trainer)
    trainer.pack(99, 0)
    trainer.train()
    assert versions.take() == [Rollouts(0, 1, inherited=True)]


def test_what_is_remembered_is_bounded() -> None:
    trainer = Trainer()
    versions, _ = followed(trainer)
    for _ in range(3):
        trainer.pack(*[0] * MAX_GROUPS)
        trainer.train()
    assert len(versions._version_of_group) == MAX_GROUPS


@pytest.mark.parametrize("lacks", ["_rollout_dataset", "rollout_worker", "callback_handler"])
def test_a_trainer_without_rollouts_is_left_alone(lacks: str) -> None:
    trainer = Trainer()
    delattr(trainer, lacks)
    before = dict(vars(trainer))
    assert not RolloutVersions(trainer).attach(Wrappers())
    assert vars(trainer) == before
    assert not RolloutVersions(None).attach(Wrappers())


def test_a_sample_of_another_make_costs_its_link_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer()
    versions, _ = followed(trainer)
    trainer._rollout_dataset.queue.put("a sample")
    with caplog.at_level(logging.WARNING):
        assert trainer._rollout_dataset.queue.get() == "a sample"
    trainer.train()
    assert versions.take() == []
    assert faults.counts()["sources"] == 1
    faults.reset()


def test_all_is_put_back() -> None:
    trainer = Trainer()
    collator, worker = trainer.callback_handler.train_dataloader.collate_fn, trainer.rollout_worker
    before = [dict(vars(one)) for one in (trainer, collator, worker)]
    _, wrappers = followed(trainer)
    assert [dict(vars(one)) for one in (trainer, collator, worker)] != before
    wrappers.restore()
    assert [dict(vars(one)) for one in (trainer, collator, worker)] == before
    assert "get" not in vars(trainer._rollout_dataset.queue)
