"""Observing without an edit of the script, inside one process: ``instrument``, ``report_to``, and taking it back."""

from __future__ import annotations

import inspect
import logging
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from observing import journal
from opentelemetry import metrics, trace
from tiny import build_trainer, numbers, variety
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from transformers.trainer_callback import CallbackHandler
from trl.extras.profiling import ProfilingContext

import rlhf_otel
from rlhf_otel import ConfigurationError, TelemetryCallback, faults
from rlhf_otel.instrumentor import RlhfOtelInstrumentor

STEPS = 3


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings for callbacks that nobody constructs by hand; returns the journal's folder."""
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", "0")
    monkeypatch.setenv("RLHF_OTEL_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


def train(folder: Path, callbacks: Any = (), **arguments: Any) -> Any:
    """A trainer that was built and trained."""
    trainer = build_trainer(folder, callbacks, max_steps=STEPS, **arguments)
    trainer.train()
    return trainer


def hooks() -> dict[str, Any]:
    """Everything of the host's that instrumenting touches, process-wide."""
    return {
        "handler": (CallbackHandler.__dict__["__init__"], CallbackHandler.__dict__["on_train_begin"]),
        "profiling": (ProfilingContext.__enter__, ProfilingContext.__exit__),
        "integrations": dict(integration_utils.INTEGRATION_TO_CALLBACK),
        "finders": list(sys.meta_path),
        "providers": (trace.get_tracer_provider(), metrics.get_meter_provider()),
    }


def methods(trainer: Any) -> dict[str, Any]:
    """What a trainer has on the instance, and its reward functions."""
    return {
        "functions": {name: value for name, value in vars(trainer).items() if callable(value)},
        "accelerator": {name: value for name, value in vars(trainer.accelerator).items() if callable(value)},
        "callbacks": list(trainer.callback_handler.callbacks),
        "rewards": list(trainer.reward_funcs),
    }


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in journal(folder, "step")]


def test_the_trainers_to_come_are_observed(settings: Path, tmp_path: Path) -> None:
    rlhf_otel.instrument()
    train(tmp_path)
    assert steps(settings) == [1, 2, 3]
    assert [run["algorithm"] for run in journal(settings, "run")] == ["grpo"]


def test_instrumenting_twice_is_instrumenting_once(settings: Path, tmp_path: Path) -> None:
    rlhf_otel.instrument()
    once = hooks()
    rlhf_otel.instrument()
    assert hooks() == once
    train(tmp_path)
    assert steps(settings) == [1, 2, 3]


def test_uninstrumenting_restores_everything(settings: Path, tmp_path: Path) -> None:
    unobserved = build_trainer(tmp_path, max_steps=STEPS)
    before_hooks, before_methods = hooks(), methods(unobserved)

    rlhf_otel.instrument()
    callback = rlhf_otel.instrument(unobserved)
    assert hooks() != before_hooks
    unobserved.train()
    rlhf_otel.uninstrument()

    assert hooks() == before_hooks
    assert methods(unobserved) == before_methods
    assert callback is not None
    assert steps(settings) == [1, 2, 3]
    train(tmp_path)  # and this one is nobody's business
    assert len(journal(settings, "run")) == 1


def test_uninstrumenting_twice_or_without_reason_is_harmless() -> None:
    before = hooks()
    rlhf_otel.uninstrument()
    rlhf_otel.instrument()
    rlhf_otel.uninstrument()
    rlhf_otel.uninstrument()
    assert hooks() == before


def test_what_others_patched_later_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rlhf_otel.instrument()
    ours = CallbackHandler.__dict__["on_train_begin"]

    def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(CallbackHandler, "on_train_begin", theirs)
    rlhf_otel.uninstrument()
    assert CallbackHandler.__dict__["on_train_begin"] is theirs


def test_a_trainer_that_exists(tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, max_steps=STEPS)
    callback = rlhf_otel.instrument(trainer, run_id="mine", metrics_port=0, journal=tmp_path / "journal")
    assert callback is not None
    assert rlhf_otel.instrument(trainer) is callback, "again changes nothing"
    with pytest.raises(ConfigurationError, match="TelemetryCallback"):
        rlhf_otel.instrument(trainer, run_id="another")
    trainer.train()
    assert steps(tmp_path / "journal") == [1, 2, 3]
    assert callback.run is not None
    assert callback.run.pipeline.identity.run_id == "mine"


def test_settings_without_a_trainer_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="RLHF_OTEL_"):
        rlhf_otel.instrument(run_id="whose?")


@pytest.mark.parametrize("instrumented", [True, False])
def test_report_to(instrumented: bool, settings: Path, tmp_path: Path) -> None:
    """Known as soon as the callback's module has been imported, since transformers has no entry points."""
    if instrumented:
        rlhf_otel.instrument()
    train(tmp_path, report_to="rlhf_otel")
    assert steps(settings) == [1, 2, 3], "observed, and once"


def test_a_callback_of_the_users_is_the_one(settings: Path, tmp_path: Path) -> None:
    rlhf_otel.instrument()
    mine = TelemetryCallback(run_id="mine", metrics_port=0, journal=tmp_path / "mine")
    train(tmp_path, [mine])
    assert steps(tmp_path / "mine") == [1, 2, 3]
    assert not settings.exists()


class At(TrainerCallback):
    """Does something at the end of the second step."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self._act()


def test_uninstrumenting_during_a_run(settings: Path, tmp_path: Path) -> None:
    """The run ends as interrupted; training goes on as if nothing had been there."""
    expected = train(tmp_path / "a").model.state_dict()
    rlhf_otel.instrument()
    trainer = train(tmp_path / "b", [At(rlhf_otel.uninstrument)])
    assert trainer.state.global_step == STEPS
    assert [record["outcome"] for record in journal(settings, "end")] == ["interrupted"]
    assert all(torch.equal(value, expected[key]) for key, value in trainer.model.state_dict().items())


async def patient(completions: list[str], **_: Any) -> list[float]:
    """An asynchronous reward function."""
    return [float(len(text)) for text in completions]


def test_reward_functions_keep_pickling(settings: Path, tmp_path: Path) -> None:
    """A trainer may send them to a process that it spawns; they arrive there as the user wrote them."""
    arrived: list[Any] = []
    kinds: list[bool] = []
    rlhf_otel.instrument()
    trainer = build_trainer(tmp_path, max_steps=STEPS, reward_funcs=(variety, numbers, patient))

    class Pickling(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            arrived.extend(pickle.loads(pickle.dumps(trainer.reward_funcs)))
            kinds.extend(inspect.iscoroutinefunction(function) for function in trainer.reward_funcs)

    trainer.add_callback(Pickling())
    trainer.train()

    assert arrived == [variety, numbers, patient] * STEPS
    assert kinds == [False, False, True] * STEPS, "awaited by those who ask, as before"
    assert trainer.reward_funcs == [variety, numbers, patient]
    assert set(journal(settings, "step")[0]["reward_functions"]) == {"variety", "numbers", "patient"}


def test_an_impossible_setting_costs_the_telemetry_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", "everywhere")
    rlhf_otel.instrument()
    with caplog.at_level(logging.WARNING, "rlhf_otel"):
        trainer = train(tmp_path)
    assert trainer.state.global_step == STEPS
    assert faults.counts()["callback"] > 0
    said = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert said
    assert all("RLHF_OTEL_METRICS_PORT" in text for text in said)


def test_the_instrumentor_instruments_once_and_leaves_everything_as_it_was() -> None:
    before = hooks()
    instrumentor = RlhfOtelInstrumentor()
    instrumentor.instrument(skip_dep_check=True)
    once = hooks()
    instrumentor.instrument(skip_dep_check=True)

    assert once["handler"] != before["handler"]
    assert hooks() == once
    instrumentor.uninstrument()
    instrumentor.uninstrument()
    assert hooks() == before
