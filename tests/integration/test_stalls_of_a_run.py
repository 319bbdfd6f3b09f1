"""Stalls of real runs: told with their stacks while they last, and nothing is told of what may take long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import pytest
from observing import ARRIVES_WITHIN_S, fetch, journal, scrape, scrape_when
from otlp_receiver import wait_until
from processes import Nursery
from tiny import build_trainer, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.stalls import timer

STALLS_AT = 4
"""Step in which it happens."""
FLOOR_S = 2.0
"""Twenty times a step or more, however busy the machine is."""


class Gate:
    """A reward function that waits in a step of its run until the test lets it go on."""

    def __init__(self, during: str = "training") -> None:
        self.during = during
        self.reached, self.opened = threading.Event(), threading.Event()

    def function(self) -> Callable[..., list[float]]:
        gate = self

        def asks_a_service_that_is_down(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
            training = len(completions) == 8
            if trainer_state.global_step == STALLS_AT - 1 and training == (gate.during == "training"):
                gate.reached.set()
                assert gate.opened.wait(ARRIVES_WITHIN_S)
            return variety(completions)

        return asks_a_service_that_is_down


class AtStepEnd(TrainerCallback):
    """Does something at the end of each step."""

    def __init__(self, action: Callable[[int], object]) -> None:
        self.action = action

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.action(state.global_step)


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], None], Gate], None]]:
    """Runs what a test does beside training on another thread, and lets training go on after it, whatever it found."""
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    def start(work: Callable[[], None], gate: Gate) -> None:
        def working() -> None:
            try:
                assert gate.reached.wait(ARRIVES_WITHIN_S)
                work()
            except BaseException as error:  # noqa: BLE001 - raised by the fixture
                errors.append(error)
            finally:
                gate.opened.set()

        threads.append(threading.Thread(target=working))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(ARRIVES_WITHIN_S)
    if errors:
        raise errors[0]


def test_a_reward_service_that_does_not_answer(
    beside: Callable[[Callable[[], None], Gate], None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    gate, files = Gate(), tmp_path / "journal"
    telemetry = TelemetryCallback(metrics_port=0, journal=files, stall_floor_s=FLOOR_S)
    well_again: list[int] = []

    def look() -> None:
        assert scrape()("rlhf_stalls_total") == 0
        found = scrape_when(lambda seen: seen("rlhf_stalls_total") == 1)
        assert found.by("phase", "rlhf_open_phase_seconds").keys() == {"reward"}
        status, reason = fetch("/healthz")
        assert status == 503
        assert "in reward for" in reason
        status, stacks = fetch("/stacks")
        assert status == 200
        now, _, then = stacks.partition("Stacks at the last stall")
        assert "asks_a_service_that_is_down" in now
        assert "asks_a_service_that_is_down" in then
        assert "which trains" in then
        assert "asks_a_service_that_is_down" in (files / "stacks-rank0.txt").read_text()

    def after(step: int) -> None:
        if step == STALLS_AT:
            scrape_when(lambda seen: seen("rlhf_step") == step)
            well_again.append(fetch("/healthz")[0])

    beside(look, gate)
    build_trainer(
        tmp_path, [telemetry, AtStepEnd(after)], reward_funcs=[gate.function()], max_steps=STALLS_AT + 2
    ).train()

    assert well_again == [200]
    (stall,) = journal(files, "stall")
    assert (stall["step"], stall["phase"], stall["rank"]) == (STALLS_AT, "reward", 0)
    assert stall["seconds"] > stall["limit_s"] >= FLOOR_S
    assert stall["phase_s"] <= stall["seconds"]
    assert stall["stacks"] == str(files / "stacks-rank0.txt")
    told = [record.getMessage() for record in caplog.records if "stalls:" in record.getMessage()]
    assert len(told) == 1
    assert "stacks-rank0.txt" in told[0]
    assert not timer._armed


@pytest.mark.slow
@pytest.mark.parametrize(("patience_s", "silent"), [(1800.0, True), (FLOOR_S, False)])
def test_an_evaluation_may_take_long_but_not_for_ever(
    patience_s: float,
    silent: bool,
    beside: Callable[[Callable[[], None], Gate], None],
    tmp_path: Path,
) -> None:
    gate, files = Gate("evaluation"), tmp_path / "journal"
    telemetry = TelemetryCallback(
        metrics_port=0, journal=files, stall_floor_s=FLOOR_S, stall_patience_s=patience_s
    )

    def taken_s() -> float:
        assert telemetry.run is not None
        return (perf_counter_ns() - telemetry.run.steps.began_ns) * 1e-9

    def look() -> None:
        if silent:
            wait_until(lambda: taken_s() > 2 * FLOOR_S, ARRIVES_WITHIN_S)
            assert fetch("/healthz")[0] == 200
            assert scrape()("rlhf_stalls_total") == 0
        else:
            found = scrape_when(lambda seen: seen("rlhf_stalls_total") == 1)
            assert found.by("phase", "rlhf_open_phase_seconds").keys() == {"evaluation"}
            assert fetch("/healthz")[0] == 503

    beside(look, gate)
    build_trainer(
        tmp_path,
        [telemetry],
        reward_funcs=[gate.function()],
        max_steps=STALLS_AT + 2,
        eval_prompts=2,
        eval_strategy="steps",
        eval_steps=STALLS_AT - 1,
        per_device_eval_batch_size=4,
    ).train()
    assert [record["phase"] for record in journal(files, "stall")] == ([] if silent else ["evaluation"])
    assert (files / "stacks-rank0.txt").exists() != silent


@pytest.mark.usefixtures("strict")
def test_a_healthy_run_leaves_no_stacks_and_with_stacks_off_there_are_none(tmp_path: Path) -> None:
    pages: dict[str, int] = {}

    def look(step: int) -> None:
        pages[stacks] = fetch("/stacks")[0]

    for stacks in ("on", "off"):
        files = tmp_path / stacks
        telemetry = TelemetryCallback(
            metrics_port=0, journal=files, stall_stacks=stacks, run_id=stacks, linger_s=0
        )
        build_trainer(tmp_path, [telemetry, AtStepEnd(look)], reward_funcs=[variety], max_steps=3).train()
        assert list(files.glob("stacks*")) == []
        assert journal(files, "stall") == []
    assert pages == {"on": 200, "off": 404}


@pytest.mark.slow
def test_native_code_that_holds_the_interpreter(nursery: Nursery, tmp_path: Path) -> None:
    """Until somebody has read its stacks from outside."""
    os.mkfifo(tmp_path / "gate")
    gate = os.open(tmp_path / "gate", os.O_RDWR)
    try:
        training = nursery.start("held_interpreter", tmp_path, RLHF_OTEL_STALL_FLOOR_S=str(FLOOR_S))
        stacks = tmp_path / "journal" / "stacks-rank0.txt"
        wait_until(lambda: stacks.exists() and "never_lets_go" in stacks.read_text(), ARRIVES_WITHIN_S)
        assert "Timeout" in stacks.read_text()
        assert journal(tmp_path / "journal", "stall") == [], "nothing of ours could run"
        os.write(gate, b"x")
        assert training.wait() == 0, training.output
    finally:
        os.close(gate)
    (stall,) = journal(tmp_path / "journal", "stall")
    assert (stall["step"], stall["phase"], stall["gil_held"]) == (6, "reward", True)
    assert stall["stacks"] == str(stacks)
    assert "step 6 has taken" in stacks.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["terminate", "exception", "exits", "keyboard", "from_a_thread"])
def test_an_end_of_any_kind_is_no_stall(nursery: Nursery, scenario: str, tmp_path: Path) -> None:
    """And leaves the timer to nobody: the process ends as it would without."""
    nursery.start(
        scenario, tmp_path, RLHF_OTEL_STALL_FLOOR_S="1", RLHF_OTEL_STALL_PATIENCE_S="1", LINGER_S="0"
    ).wait()
    assert journal(tmp_path / "journal", "stall") == []
    assert not (tmp_path / "journal" / "stacks-rank0.txt").exists()
    assert faults.total() == 0
