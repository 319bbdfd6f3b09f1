"""Wrappers around a trainer's methods: they see what they should, change nothing, and go away again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import build_trainer
from transformers import LlamaConfig, LlamaForCausalLM
from trl import GRPOTrainer

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.catalogue.spans import PHASE_BY_NAME
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.sources.phases import PhaseRecorder, nest
from rlhf_otel.sources.scalars import ScalarReader
from rlhf_otel.sources.trainer_seams import TrainerSeams


def length(completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


def style(completions: list[str]) -> list[float | None]:
    return [None for _ in completions]


class Trainer:
    """Has the methods that TRL's trainers have."""

    def __init__(self) -> None:
        self.accelerator = SimpleNamespace(backward=lambda loss, **more: ("backward", loss, more))
        self.model, self.ref_model = object(), object()
        self.reward_funcs: list[Any] = [length, style]
        self.reward_func_names = ["length", "style"]

    def get_batch_samples(self, *args: Any, **more: Any) -> Any:
        return args, more

    def evaluate(self) -> dict[str, float]:
        return {"eval_loss": 1.0}

    def _save_checkpoint(self) -> None:
        raise OSError("disk full")

    def training_step(self, loss: Any) -> Any:
        return loss

    def _get_grad_norm(self) -> Any:
        return None

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any) -> str:
        return "logps"


class Observed:
    """A trainer with its seams attached."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.recorder, self.scalars = PhaseRecorder(), ScalarReader()
        self.seams = TrainerSeams(trainer, self.recorder, self.scalars)
        self.seams.attach()

    def phases(self) -> list[tuple[str, bool]]:
        return [
            (found.phase, found.failed) for found in nest(self.recorder.take_step(self.recorder.end_step()))
        ]


@pytest.fixture
def observed() -> Observed:
    return Observed(Trainer())


def test_arguments_and_results_pass_through(observed: Observed) -> None:
    trainer = observed.trainer
    assert trainer.get_batch_samples(1, two=2) == ((1,), {"two": 2})
    assert trainer.evaluate() == {"eval_loss": 1.0}
    assert trainer.accelerator.backward("loss", a=1) == ("backward", "loss", {"a": 1})
    assert observed.phases() == [("other", False), ("evaluation", False), ("backward", False)]


class Fetching(Trainer):
    """Takes batches as transformers does, and then waits for other ranks."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, *_: Any) -> Any:
        found = []
        for _number in range(num_batches):
            try:
                found.append(next(epoch_iterator))
            except StopIteration:
                break
        return found, epoch_iterator


def test_only_reading_is_data_and_the_count_of_tokens_over_all_ranks_is_not() -> None:
    observed, batch = Observed(Fetching()), object()
    found, seen = observed.trainer.get_batch_samples(iter([batch]), 2)

    assert found == [batch]
    assert found[0] is batch
    assert iter(seen) is seen
    assert observed.phases() == [("other", False), ("data", False), ("data", False)]
    assert [PHASE_BY_NAME[name].scope for name in ("data", "other")] == ["local", "collective"]
    observed.seams.detach()
    assert "get_batch_samples" not in vars(observed.trainer)


def test_a_data_loader_that_fails_marks_the_phase() -> None:
    def batches() -> Iterator[int]:
        raise OSError("storage gone")
        yield

    observed = Observed(Fetching())
    with pytest.raises(OSError, match="storage gone"):
        observed.trainer.get_batch_samples(batches(), 1)
    assert observed.phases() == [("other", True), ("data", True)]


def test_exceptions_pass_through_and_mark_the_phase(observed: Observed) -> None:
    with pytest.raises(OSError, match="disk full"):
        observed.trainer._save_checkpoint()
    assert observed.phases() == [("checkpoint", True)]


def test_scalars_are_read_from_results(observed: Observed) -> None:
    loss = torch.tensor(math.nan, requires_grad=True)
    assert observed.trainer.training_step(loss) is loss
    assert observed.trainer._get_grad_norm() is None
    ((name, value, _),) = observed.scalars.take()
    assert name == "loss"
    assert math.isnan(float(value))


def test_a_scalar_that_cannot_be_read_is_a_fault_and_no_more(
    observed: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str, value: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(observed.scalars, "add", fails)
    assert observed.trainer.training_step(3.0) == 3.0
    assert faults.counts()["sources"] == 1


def test_detaching_leaves_the_trainer_as_it_was() -> None:
    trainer = Trainer()
    own, backward, functions = dict(vars(trainer)), trainer.accelerator.backward, trainer.reward_funcs
    observed = Observed(trainer)
    assert vars(trainer).keys() > own.keys()
    assert trainer.reward_funcs is functions, "the list itself may be held elsewhere"
    observed.seams.detach()
    observed.seams.detach()
    assert vars(trainer) == own
    assert trainer.accelerator.backward is backward
    assert functions == [length, style]
    assert trainer.evaluate() == {"eval_loss": 1.0}
    assert observed.phases() == []


def test_a_method_that_was_already_on_the_instance_comes_back() -> None:
    def mine() -> str:
        return "mine"

    trainer = Trainer()
    trainer.evaluate = mine  # type: ignore[assignment, method-assign]
    observed = Observed(trainer)
    assert trainer.evaluate() == "mine"
    observed.seams.detach()
    assert trainer.evaluate is mine


def test_who_wrapped_after_us_stays(observed: Observed) -> None:
    trainer, ours = observed.trainer, observed.trainer.evaluate

    def theirs() -> Any:
        return {"theirs": ours()}

    trainer.evaluate = theirs
    trainer.reward_funcs[1] = other = lambda completions: [0.0]
    observed.seams.detach()
    assert trainer.evaluate() == {"theirs": {"eval_loss": 1.0}}
    assert trainer.reward_funcs == [length, other]


@pytest.mark.parametrize("trainer", [None, SimpleNamespace(), object()], ids=["none", "empty", "no dict"])
def test_a_trainer_without_the_methods_has_nothing_to_wrap(trainer: Any) -> None:
    Observed(trainer).seams.detach()


@pytest.mark.parametrize(
    "changes",
    [
        {"reward_funcs": (length, style)},
        {"reward_func_names": []},
        {"reward_func_names": ["one"]},
        {"reward_func_names": None},
    ],
    ids=str,
)
def test_reward_functions_that_do_not_fit_their_names_are_left_alone(changes: dict[str, Any]) -> None:
    trainer = Trainer()
    vars(trainer).update(changes)
    functions = list(trainer.reward_funcs)
    observed = Observed(trainer)
    assert list(trainer.reward_funcs) == functions
    observed.seams.detach()


def test_reward_functions_are_counted_under_the_trainer_s_names(observed: Observed) -> None:
    assert observed.seams.reward_function_names == {"length", "style"}
    for function in observed.trainer.reward_funcs:
        function(["a", "b"])
    assert observed.seams.reward_functions.none == {"length": 0, "style": 2}


# One method, three purposes


def log_probability_phase(observed: Observed, model: Any) -> str:
    assert observed.trainer._get_per_token_logps_and_entropies(model, 1) == "logps"
    ((phase, _),) = observed.phases()
    return phase


def test_log_probabilities_of_policy_and_reference(observed: Observed) -> None:
    assert log_probability_phase(observed, observed.trainer.model) == "policy_logprobs"
    assert log_probability_phase(observed, observed.trainer.ref_model) == "reference_logprobs"


def test_log_probabilities_inside_the_loss_are_the_forward_pass(observed: Observed) -> None:
    opened = observed.recorder.begin("loss")
    observed.trainer._get_per_token_logps_and_entropies(observed.trainer.model)
    observed.recorder.end(opened)
    assert observed.phases() == [("loss", False), ("forward", False)]


@pytest.fixture(scope="module")
def with_adapter() -> Any:
    peft = pytest.importorskip("peft")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=8, **sizes))
    return peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], r=2))


@pytest.mark.parametrize(
    "wrap", [lambda model: model, lambda model: SimpleNamespace(module=model)], ids=["bare", "DDP"]
)
def test_without_its_adapter_a_model_is_the_reference(
    observed: Observed, with_adapter: Any, wrap: Callable[[Any], Any]
) -> None:
    assert log_probability_phase(observed, wrap(with_adapter)) == "policy_logprobs"
    with with_adapter.disable_adapter():
        assert log_probability_phase(observed, wrap(with_adapter)) == "reference_logprobs"
    assert log_probability_phase(observed, wrap(with_adapter)) == "policy_logprobs"


def test_the_adapter_named_ref_is_the_reference(observed: Observed, with_adapter: Any) -> None:
    peft = pytest.importorskip("peft")
    with_adapter.add_adapter("ref", peft.LoraConfig(target_modules=["q_proj"], r=2))
    with_adapter.set_adapter("ref")
    try:
        assert log_probability_phase(observed, with_adapter) == "reference_logprobs"
    finally:
        with_adapter.set_adapter("default")
        with_adapter.delete_adapter("ref")


def test_a_real_run_with_an_adapter_times_policy_and_reference_apart(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapter = peft.LoraConfig(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM")
    observer = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal")
    build_trainer(
        tmp_path,
        [observer],
        trainer_class=partial(GRPOTrainer, peft_config=adapter),  # type: ignore[arg-type]
        max_steps=2,
        num_iterations=2,  # else the policy's own are not asked for
    ).train()
    steps = [found for found in read_journal(tmp_path / "journal") if found["type"] == "step"]
    counted = [Counter(phase[0] for phase in step["phases"]) for step in steps]
    assert [(c["policy_logprobs"], c["reference_logprobs"], c["forward"]) for c in counted] == [
        (1, 1, 1),
        (0, 0, 1),
    ]
    assert not faults.total()
