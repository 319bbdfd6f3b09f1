"""GRPO and SFT as people run them: accumulation, reuse, evaluation, adapters, retries, resumption, workers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import pytest
import tiny_trainers
from datasets import Dataset
from transformers import TrainerCallback

from rlhf_otel import faults
from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.exporters.journal import read_journal

BUILDERS = {"grpo": tiny_trainers.grpo, "sft": tiny_trainers.sft}
both = pytest.mark.parametrize("name", sorted(BUILDERS))


def observer_of(folder: Path, **settings: Any) -> TelemetryCallback:
    return TelemetryCallback(metrics_port="off", journal=folder / "journal", **settings)


def observed(
    name: str, folder: Path, *others: TrainerCallback, **arguments: Any
) -> tuple[Any, TelemetryCallback]:
    """A trained trainer and its callback; nothing failed."""
    observer = observer_of(folder)
    trainer = BUILDERS[name](folder, [observer, *others], **arguments)
    trainer.train()
    assert faults.total() == 0, faults.counts()
    return trainer, observer


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(folder / "journal") if record["type"] == kind]


class StopAfter(TrainerCallback):
    """Stops training, as a walltime does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= state.global_step >= self.step


@both
def test_steps_under_accumulation_are_those_of_the_optimizer(name: str, tmp_path: Path) -> None:
    trainer, _ = observed(name, tmp_path, gradient_accumulation_steps=2, logging_steps=3, max_steps=6)
    steps = records(tmp_path, "step")

    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for number, entry in enumerate(logged):
        window = steps[3 * number : 3 * number + 3]
        assert sum(step["values"]["loss"] for step in window) / 3 == pytest.approx(entry["loss"], abs=2e-3)
        assert window[-1]["values"]["grad_norm"] == pytest.approx(entry["grad_norm"], rel=1e-3)
        assert window[-1]["values"]["learning_rate"] == pytest.approx(entry["learning_rate"])


def test_steps_that_reuse_completions_are_told_from_those_that_generate(tmp_path: Path) -> None:
    observed("grpo", tmp_path, steps_per_generation=2, logging_steps=5, max_steps=6)
    steps = records(tmp_path, "step")

    assert [step["kind"] for step in steps] == ["generate", "reuse"] * 3
    assert ["reward" in step["values"] for step in steps] == [True, False] * 3
    assert all("entropy" in step["values"] for step in steps)


@both
def test_evaluation_in_between_is_no_step(name: str, tmp_path: Path) -> None:
    observer = observer_of(tmp_path)
    trainer = BUILDERS[name](tmp_path, [observer], max_steps=4, logging_steps=3)
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 2
    trainer.eval_dataset = trainer.train_dataset.select(range(4))
    trainer.train()

    assert [record["step"] for record in records(tmp_path, "evaluation")] == [2, 4]
    assert [step["step"] for step in records(tmp_path, "step")] == [1, 2, 3, 4]
    assert observer.run is not None
    assert observer.run.pipeline.snapshot.evaluations == 2
    assert "loss" in observer.run.pipeline.snapshot.evaluation


@both
def test_adapters(name: str, tmp_path: Path) -> None:
    adapter = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    build, observer = tiny_trainers.build, observer_of(tmp_path)

    def with_adapter(*args: Any, **parts: Any) -> Any:
        return build(*args, peft_config=adapter, **parts)

    with mock.patch.object(tiny_trainers, "build", with_adapter):
        trainer = BUILDERS[name](tmp_path, [observer])
    trainer.train()
    values = records(tmp_path, "step")[-1]["values"]

    assert faults.total() == 0, faults.counts()
    assert type(trainer.model).__name__.startswith("Peft")
    assert values["grad_norm"] > 0
    if name == "grpo":
        assert "kl_per_token" in values
        assert observer.run is not None
        assert observer.run.view().phase_counts["reference_logprobs"] == tiny_trainers.STEPS


def test_a_smaller_batch_after_running_out_of_memory_is_another_attempt_of_one_run(tmp_path: Path) -> None:
    observer = observer_of(tmp_path)
    trainer = tiny_trainers.sft(tmp_path, [observer], auto_find_batch_size=True, max_steps=4)
    original = trainer.training_step

    def training_step(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if len(inputs["input_ids"]) >= 4 and trainer.state.global_step == 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate all of it.")
        return original(model, inputs, *args, **kwargs)

    trainer.training_step = training_step
    trainer.train()

    begun, ended = records(tmp_path, "run"), records(tmp_path, "end")
    assert faults.total() == 0, faults.counts()
    assert len({run["run_id"] for run in begun}) == 1
    assert [run["attempt"] for run in begun if not run.get("continued")] == [1, 2]
    assert [end["outcome"] for end in ended] == ["interrupted", "finished"]
    assert [step["step"] for step in records(tmp_path, "step")] == [1, 1, 2, 3, 4]


@both
def test_optimizer_steps_that_are_skipped_are_counted(name: str, tmp_path: Path) -> None:
    observer = observer_of(tmp_path)
    trainer = BUILDERS[name](tmp_path, [observer], max_steps=4)
    skipped = property(lambda self: trainer.state.global_step in (1, 2))
    with mock.patch.object(type(trainer.accelerator), "optimizer_step_was_skipped", skipped):
        trainer.train()

    assert observer.run is not None
    assert observer.run.pipeline.snapshot.skipped_steps == 2
    assert observer.run.pipeline.snapshot.step == 4


@both
def test_a_run_goes_on_from_its_checkpoint(name: str, tmp_path: Path) -> None:
    arguments = {"max_steps": 8, "save_strategy": "steps", "save_steps": 5}
    _, first = observed(name, tmp_path, StopAfter(5), **arguments)
    observer = observer_of(tmp_path)
    trainer = BUILDERS[name](tmp_path, [observer], **arguments)
    trainer.train(resume_from_checkpoint=True)

    assert faults.total() == 0, faults.counts()
    assert first.run is not None
    assert observer.run is not None
    was, now = first.run.pipeline.identity, observer.run.pipeline.identity
    assert (now.run_id, now.attempt) == (was.run_id, was.attempt + 1)
    assert [step["step"] for step in records(tmp_path, "step")] == [1, 2, 3, 4, 5, 6, 7, 8]
    snapshot = observer.run.pipeline.snapshot
    assert (snapshot.step, snapshot.planned_steps) == (8, 8)
    assert sum(sum(state.counts) for state in snapshot.durations.values()) == 3, "counters start at 0"
    learnt = observer.run.pipeline.learnt()["generate"]["loss"]
    assert learnt["count"] == 8, "baselines go on"


def test_trainers_one_after_another_and_a_cell_that_is_run_again(tmp_path: Path) -> None:
    identities = []
    for cell in ("sft", "reward", "sft", "sft"):
        observer = observer_of(tmp_path)
        trainer = {**BUILDERS, "reward": tiny_trainers.reward}[cell](tmp_path, [observer], max_steps=2)
        trainer.train()
        assert observer.run is not None
        identities.append(observer.run.pipeline.identity)
    trainer.train()  # the same trainer, again
    assert observer.run is not None
    identities.append(observer.run.pipeline.identity)

    assert faults.total() == 0, faults.counts()
    assert len({identity.run_id for identity in identities}) == len(identities)
    assert [identity.algorithm for identity in identities] == ["sft", "reward", "sft", "sft", "sft"]
    assert [end["outcome"] for end in records(tmp_path, "end")] == ["finished"] * 5
    assert [step["step"] for step in records(tmp_path, "step")] == [1, 2] * 5


@both
def test_forked_workers_load_the_data(name: str, tmp_path: Path) -> None:
    observed(name, tmp_path, dataloader_num_workers=1)

    assert [end["outcome"] for end in records(tmp_path, "end")] == ["finished"]
    assert len(records(tmp_path, "step")) == tiny_trainers.STEPS


@pytest.mark.slow
def test_spawned_workers_load_the_data(tmp_path: Path) -> None:
    import torch.multiprocessing

    before = torch.multiprocessing.get_start_method(allow_none=True)
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        observed("sft", tmp_path, dataloader_num_workers=1)
    finally:
        torch.multiprocessing.set_start_method(before, force=True)

    assert [end["outcome"] for end in records(tmp_path, "end")] == ["finished"]
    assert len(records(tmp_path, "step")) == tiny_trainers.STEPS


# What is not as it should be: said clearly, and the rest goes on


def test_a_key_that_was_renamed_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    observer = observer_of(tmp_path)
    trainer = tiny_trainers.grpo(tmp_path, [observer])

    class Renaming(dict[str, Any]):
        def __missing__(self, key: str) -> list[Any]:
            return self.setdefault({"reward": "reward_v2"}.get(key, key), [])

    trainer._metrics["train"] = Renaming()
    with caplog.at_level(logging.WARNING, "rlhf_otel"):
        trainer.train()

    said = [record.getMessage() for record in caplog.records if "renamed" in record.getMessage()]
    assert len(said) == 1
    assert "'reward'" in said[0]
    assert "'reward_v2'" in said[0]
    assert observer.run is not None
    assert "reward_v2" in observer.run.pipeline.snapshot.unmapped
    assert "entropy" in observer.run.pipeline.snapshot.values
    assert faults.total() == 0, faults.counts()


@both
def test_nothing_is_told_of_a_trainer_as_it_should_be(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rlhf_otel"):
        observed(name, tmp_path)

    assert not [record.getMessage() for record in caplog.records if record.name == "rlhf_otel"]


def test_a_subclass_with_a_loop_of_its_own_is_observed_by_its_events(tmp_path: Path) -> None:
    import trl

    class OwnLoop(trl.SFTTrainer):
        def train(self, *args: Any, **kwargs: Any) -> None:
            self.state.max_steps = 3
            self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
            for step in range(1, 4):
                self.state.global_step = step
                self.log({"loss": 1.0 / step, "my/number": float(step)})
                self.control = self.callback_handler.on_step_end(self.args, self.state, self.control)
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    observer = observer_of(tmp_path)
    trainer = tiny_trainers.build(
        tmp_path, OwnLoop, trl.SFTConfig, [observer],
        model=tiny_trainers.base_model(tmp_path), train_dataset=Dataset.from_dict({"text": ["sort 1 2 ="] * 8}),
    )  # fmt: skip
    trainer.train()

    assert faults.total() == 0, faults.counts()
    steps = records(tmp_path, "step")
    assert [step["values"]["loss"] for step in steps] == [1.0, 0.5, pytest.approx(1 / 3)]
    assert [step["unmapped"]["my/number"] for step in steps] == [1.0, 2.0, 3.0]
    assert [end["outcome"] for end in records(tmp_path, "end")] == ["finished"]


def test_keys_that_nobody_knows_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Own(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer._metrics["train"]["brand_new/key"].append(1.0)

    observer = observer_of(tmp_path)
    trainer = tiny_trainers.MAIN["dpo"](tmp_path, [Own(), observer], max_steps=3)
    trainer.train()

    told = [record.message for record in caplog.records if "'brand_new/key'" in record.message]
    assert len(told) == 1
    assert faults.total() == 0


def test_keys_that_pass_through_on_purpose_or_of_an_unknown_trainer_are_not_told() -> None:
    from rlhf_otel.sources.expectations import unfamiliar

    assert not unfamiliar(["perf/fwd_s"], "asyncgrpo")
    assert "'perf/brand_new'" in unfamiliar(["perf/fwd_s", "perf/brand_new"], "asyncgrpo")
    assert not unfamiliar([], "grpo")
    assert not unfamiliar(["mine"], "mytrainer")


def test_a_newer_trl_than_tested_is_told() -> None:
    from rlhf_otel.sources.expectations import newer
    from rlhf_otel.sources.trl_keys.trainers import NOW

    assert newer("9.0.0").startswith("TRL 9.0.0 is newer than")
    assert not newer(f"{NOW}.3")
    assert not newer("0.29.0")
    assert not newer("main")


def test_versions_that_are_too_old_are_told(caplog: pytest.LogCaptureFixture) -> None:
    from rlhf_otel.sources.expectations import too_old, warn_of_versions

    assert too_old({"trl": "0.28.1", "transformers": "5.23.0"}).startswith("trl 0.28.1 (supported from 0.29)")
    assert "transformers 4.40.0" in too_old({"trl": "1.16.0", "transformers": "4.40.0"})
    assert not too_old({"trl": "0.29.0", "transformers": "4.57.6", "torch": "1.0"})
    assert not too_old({"trl": "", "transformers": "main"})
    with caplog.at_level(logging.WARNING, "rlhf_otel"):
        warn_of_versions()
    assert not caplog.records
    with mock.patch("trl.__version__", "0.20.0"), caplog.at_level(logging.WARNING, "rlhf_otel"):
        warn_of_versions()
    assert "trl 0.20.0" in caplog.text
