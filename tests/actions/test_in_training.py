"""Actions in real GRPO runs: what changes training does so at a step's end, what does not leaves it as it was."""

from __future__ import annotations

import gzip
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from otlp_receiver import wait_until
from test_webhook import Server
from tiny import build_trainer, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, faults, serving
from rlhf_otel.exporters.journal import read_journal

MANY_STEPS = 400
"""More than a run that is told to stop gets to."""
BROKEN_FROM = 3


@pytest.fixture(autouse=True)
def _ports_are_closed() -> Iterator[None]:
    yield
    wait_until(lambda: serving.address() is None, 30.0)


def telemetry(*actions: dict[str, Any], **more: Any) -> TelemetryCallback:
    return TelemetryCallback(metrics_port="off", actions=list(actions), linger_s=0, **more)


def broken_reward(first_call: int = BROKEN_FROM) -> Any:
    """NaN for all completions from a call on."""
    calls = iter(range(1, 10_000))

    def sometimes_nan(completions: list[str], **_: Any) -> list[float]:
        broken = next(calls) >= first_call
        return [math.nan if broken else score for score in variety(completions)]

    return sometimes_nan


def journal(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(folder / "out" / "rlhf_otel") if record["type"] == kind]


def test_save_then_stop(tmp_path: Path) -> None:
    callback = telemetry({"rule": "NonFinite", "do": ["save", "stop"]})
    trainer = build_trainer(
        tmp_path, [callback], reward_funcs=[broken_reward()], max_steps=MANY_STEPS, beta=0.0
    )
    trainer.train()
    stopped_at = trainer.state.global_step
    assert BROKEN_FROM < stopped_at < MANY_STEPS
    assert (tmp_path / "out" / f"checkpoint-{stopped_at}").is_dir()
    fired = next(record for record in journal(tmp_path, "anomaly") if record["rule"] == "NonFinite")
    assert fired["actions"] == ["save", "stop"]
    outcomes = [(record["action"], record["outcome"]) for record in journal(tmp_path, "action")]
    assert outcomes == [("save", "done"), ("stop", "done")]
    end = journal(tmp_path, "end")[-1]
    assert end["outcome"] == "interrupted"
    assert end["reason"] == f"stopped by an action: NonFinite at step {BROKEN_FROM}"
    assert callback.run is not None
    assert callback.run.view().actions["stop", "done"] == 1


class Deaf(TrainerCallback):
    """Makes the loop go on, as PPO's does, which never reads the flag."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = False


def test_a_loop_that_ignores_the_flag_is_left_in_order(tmp_path: Path) -> None:
    callback = telemetry({"rule": "NonFinite", "do": "stop"})
    trainer = build_trainer(
        tmp_path, [callback, Deaf()], reward_funcs=[broken_reward()], max_steps=MANY_STEPS, beta=0.0
    )
    trainer.train()  # returns
    assert trainer.state.global_step < MANY_STEPS
    assert journal(tmp_path, "end")[-1]["outcome"] == "interrupted"
    assert faults.total() == 0


def test_a_healthy_run_is_neither_stopped_nor_saved(tmp_path: Path) -> None:
    callback = telemetry({"severity": "critical", "do": ["save", "stop", "log"]})
    trainer = build_trainer(tmp_path, [callback], max_steps=12)
    trainer.train()
    assert trainer.state.global_step == 12
    assert not list((tmp_path / "out").glob("checkpoint-*"))
    assert journal(tmp_path, "action") == []
    assert journal(tmp_path, "end")[-1]["outcome"] == "finished"


def weights_after(folder: Path, callbacks: list[TrainerCallback]) -> dict[str, torch.Tensor]:
    trainer = build_trainer(folder, callbacks, reward_funcs=[variety, broken_reward()], max_steps=10)
    trainer.train()
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_functions_that_raise_or_hang_change_nothing(tmp_path: Path) -> None:
    release = threading.Event()

    def hang(_: Any) -> None:
        release.wait(120)

    def fail(_: Any) -> None:
        raise RuntimeError("broken")

    entry = {"rule": "NonFinite", "do": "function", "cool_down_s": 0}
    callback = telemetry({**entry, "call": hang}, {**entry, "call": fail}, {"rule": "NonFinite", "do": "log"})
    try:
        with_actions = weights_after(tmp_path / "with", [callback])
    finally:
        release.set()
    without = weights_after(tmp_path / "without", [])
    assert all(torch.equal(with_actions[name], value) for name, value in without.items())
    assert callback.run is not None
    counts = callback.run.view().actions
    assert (counts["function", "failed"], counts["function", "dropped"], counts["log", "done"]) == (1, 1, 1)


def test_the_webhook_of_a_run_that_dies_still_arrives(tmp_path: Path) -> None:
    server = Server([503])

    def dies(completions: list[str], **_: Any) -> list[float]:
        if calls := next(countdown, None):
            return [float("nan")] * len(completions) if calls == "nan" else variety(completions)
        raise ConnectionError("the reward service hung up")

    countdown = iter(["well", "nan"])
    callback = telemetry(
        {"rule": "NonFinite", "do": "webhook", "url": server.url}, webhook_secret="a-shared-secret"
    )
    trainer = build_trainer(tmp_path, [callback], reward_funcs=[dies])
    with pytest.raises(ConnectionError):
        trainer.train()
    server.http.shutdown()
    server.http.server_close()
    assert [json.loads(body)["step"] for _, body in server.requests] == [2, 2]  # refused once, then taken
    assert journal(tmp_path, "action")[-1]["outcome"] == "done"
    assert "a-shared-secret" not in "".join(path.read_text() for path in tmp_path.rglob("journal-*.jsonl"))


def test_a_profile_of_the_next_steps(tmp_path: Path) -> None:
    callback = telemetry({"rule": "NonFinite", "do": "profile", "steps": 2})
    trainer = build_trainer(tmp_path, [callback], reward_funcs=[broken_reward()], max_steps=30, beta=0.0)
    trainer.train()
    done = journal(tmp_path, "action")[0]
    assert done["outcome"] == "done"
    trace = json.loads(gzip.decompress(Path(done["detail"]).read_bytes()))
    assert any("Optimizer.step" in event.get("name", "") for event in trace["traceEvents"])
