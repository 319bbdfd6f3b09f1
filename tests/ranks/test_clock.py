"""A clock that jumps during a run: one line that says so, and nothing else changes but timestamps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from observing import journal
from otlp_receiver import wait_until
from tiny import build_trainer
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, serving
from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.detector import Detector
from rlhf_otel.records import StepRecord
from rlhf_otel.sources.wall_clock import JUMP_S, WallClock

STEPS = 40
SECOND = 1_000_000_000


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: serving.address() is None, 30)


class Jump(TrainerCallback):
    """Lets the wall clock of this process jump after a step."""

    def __init__(self, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self._seconds = seconds
        self._patch = monkeypatch

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 10:
            true, true_ns = time.time, time.time_ns
            self._patch.setattr(time, "time", lambda: true() + self._seconds)
            self._patch.setattr(time, "time_ns", lambda: true_ns() + int(self._seconds * SECOND))


@pytest.mark.parametrize("seconds", [7200.0, -7200.0])
def test_a_jump_during_a_run(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    callback = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    trainer = build_trainer(tmp_path, [callback, Jump(seconds, monkeypatch)], max_steps=STEPS)
    with caplog.at_level(logging.WARNING, "rlhf_otel"):
        trainer.train()
    monkeypatch.undo()

    said = [
        record.getMessage() for record in caplog.records if "the clock of this host jumped" in record.message
    ]
    assert len(said) == 1
    assert f"{seconds:+.0f} s" in said[0]
    steps = journal(tmp_path / "journal", "step")
    assert [record["step"] for record in steps] == list(range(1, STEPS + 1))
    assert all(0 < record["duration_ms"] < 60_000 for record in steps)
    assert "SlowStep" not in {record["rule"] for record in journal(tmp_path / "journal", "anomaly")}
    (end,) = journal(tmp_path / "journal", "end")
    assert end["outcome"] == "finished"
    assert end["time"] >= steps[-1]["time"], "else a finished run would look like one that vanished"


def test_the_end_is_never_before_the_last_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the clock goes back between the last step and the end."""

    class Back(Jump):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                state.global_step = STEPS - 10
                super().on_step_end(args, state, control)
                state.global_step = 3

    callback = TelemetryCallback(metrics_port=0, journal="off")
    build_trainer(tmp_path, [callback, Back(-7200.0, monkeypatch)], max_steps=3).train()
    monkeypatch.undo()
    assert callback.run is not None
    view = callback.run.view()
    assert view.end is not None
    assert view.end.time_ns / 1e9 >= view.snapshot.time_s


@pytest.mark.parametrize(
    ("wall", "monotonic", "expected"),
    [
        ([0, 10, 20], [0, 10, 20], [0, 0, 0]),
        ([0, 10, 3620], [0, 10, 20], [0, 0, 3600]),
        ([5000, 5010, 1420], [0, 10, 20], [0, 0, -3600]),
        ([0, 3600, 7200], [0, 3600, 7200], [0, 0, 0]),  # a step of an hour is no jump
        ([0, 10, 20 + JUMP_S - 1], [0, 10, 20], [0, 0, 0]),  # drift, corrected slowly
    ],
)
def test_what_counts_as_a_jump(wall: list[float], monotonic: list[float], expected: list[float]) -> None:
    clock = WallClock()
    found = [
        clock.jump_s(int(seconds * SECOND), int(since * SECOND))
        for seconds, since in zip(wall, monotonic, strict=True)
    ]
    assert found == expected


@pytest.mark.parametrize("seconds", [7200, -7200])
def test_a_verdict_does_not_stay_latched_for_hours(seconds: int) -> None:
    detector = Detector((RULE_BY_NAME["NonFinite"],))

    def observe(step: int, time_s: int, loss: float) -> bool:
        record = StepRecord(step, 0.0, StepKind.GENERATE, 0, SECOND, time_s * SECOND, {"loss": loss})
        record.nonfinite = {"loss": 1} if loss != loss else {}
        detector.observe(record, {})
        return any(verdict.active for verdict in detector.verdicts)

    start = 1_700_000_000
    assert observe(1, start, float("nan"))
    after = [observe(step, start + seconds + step, 1.0) for step in range(2, 400)]
    assert after[0], "latched for some steps, whatever the clock says"
    assert not after[-1]
