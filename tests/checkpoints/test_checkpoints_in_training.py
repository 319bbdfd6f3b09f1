"""Saved checkpoints are analysed beside a real GRPO run: shown, journaled, judged, and never waited for."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
from checkpoint_cases import changed, filled, pair
from observing import Scrape, scrape
from tiny import build_trainer

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.checkpoints import process
from rlhf_otel.checkpoints.process import Analysis, CheckpointAnalysis
from rlhf_otel.detection.detector import Detector
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.records import StepRecord

PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def _in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an idle process would never get its turn."""
    monkeypatch.setattr(process, "PRIORITY", [])
    monkeypatch.setattr("rlhf_otel.run.ANALYSIS_S", PATIENCE_S)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Break(TrainerCallback):
    """Damages the model before the second checkpoint, and lets steps wait until a checkpoint was analysed."""

    def __init__(self, telemetry: TelemetryCallback, damage: Callable[[Any], None]) -> None:
        self.telemetry = telemetry
        self.damage = damage
        self.seen: list[Scrape] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        analysis = self.telemetry.run.analysis if self.telemetry.run is not None else None
        assert analysis is not None
        if state.global_step == 3:
            self.damage(kwargs["model"])
        if state.global_step in (3, 5):
            until(lambda: analysis.latest is not None and analysis.latest.step == state.global_step - 1)
        if state.global_step == 6:  # step 5 has been judged with it
            until(lambda: self.telemetry.run and self.telemetry.run.pipeline.snapshot.step >= 5)
            self.seen.append(scrape())


def train(folder: Path, damage: Callable[[Any], None], **arguments: Any) -> Break:
    telemetry = TelemetryCallback(metrics_port=0, linger_s=0)
    breaking = Break(telemetry, damage)
    saving = {"save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-4, **arguments}
    build_trainer(folder, [breaking, telemetry], max_steps=6, **saving).train()
    return breaking


def explode(model: Any) -> None:
    model.model.layers[0].mlp.down_proj.weight.data.mul_(1e5)


def nothing(_: Any) -> None:
    pass


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    pair("llama", "bf16")(root)
    return root


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record in read_journal(folder / "out" / "rlhf_otel") if record["type"] == kind]


def test_a_damaged_checkpoint_is_shown_journaled_and_fires_its_rule(tmp_path: Path) -> None:
    shown = train(tmp_path, explode, save_only_model=True).seen[0]
    assert shown("rlhf_checkpoint_health_ratio") < 0.4
    assert shown("rlhf_checkpoint_findings", finding="exploded-layer") >= 1
    assert shown("rlhf_checkpoint_analyses_total", outcome="done") == 2
    assert shown("rlhf_checkpoint_drift_ratio") > 1.0
    assert shown("rlhf_anomaly_active", rule="CheckpointUnhealthy") == 1
    found = records(tmp_path, "checkpoint_analysis")
    assert [record["step"] for record in found] == [2, 4, 6]
    assert "drift" not in found[0]
    assert any("down_proj" in finding["where"] for finding in found[1]["findings"])
    (anomaly,) = [one for one in records(tmp_path, "anomaly") if one["rule"] == "CheckpointUnhealthy"]
    assert anomaly["step"] == 5
    assert "checkpoint-4: exploded-layer in model.layers.0.mlp.down_proj.weight" in anomaly["detail"]
    assert not faults.total()


def test_a_healthy_run_has_healthy_checkpoints_and_no_verdict_about_them(tmp_path: Path) -> None:
    shown = train(tmp_path, nothing).seen[0]
    assert shown("rlhf_checkpoint_health_ratio") == 1.0
    assert 0.0 < shown("rlhf_checkpoint_drift_ratio") < 0.1
    assert 0.0 < shown("rlhf_checkpoint_reference_drift_ratio") < 0.1
    assert shown.by("finding", "rlhf_checkpoint_findings") == {}
    last = records(tmp_path, "checkpoint_analysis")[-1]
    assert (last["step"], last["health"]) == (6, 1.0)
    assert not [one for one in records(tmp_path, "anomaly") if one["rule"].startswith("Checkpoint")]
    kinds = [record["type"] for record in read_journal(tmp_path / "out" / "rlhf_otel")]
    assert kinds.index("end") > max(i for i, kind in enumerate(kinds) if kind == "checkpoint_analysis")


def test_weights_that_are_not_finite_page_once_for_each_checkpoint() -> None:
    analysis = CheckpointAnalysis(lambda _: None)
    rows, detector = [], Detector()
    findings: list[dict[str, int]] = [{}, {"non-finite": 3, "learning-rate": 1}, {"moments-non-finite": 1}]
    for step, counts in enumerate(findings, 1):
        analysis.latest = Analysis(step, f"checkpoint-{step}", counts=counts)
        for _ in range(2):
            record = StepRecord(step, 0.0, StepKind.GENERATE, 0, 1, 1, dict(analysis.signals()))
            analysis.add_findings(record)
            fired = [anomaly.rule for anomaly in detector.observe(record, {})]
            rows.append((record.values["weights"], dict(record.nonfinite), fired))
    nothing: tuple[dict[str, int], list[str]] = ({}, [])
    assert rows[:2] == [(0.0, *nothing)] * 2
    assert rows[2:4] == [(3.0, {"weights": 3}, ["NonFinite"]), (3.0, *nothing)]
    assert rows[4:] == [(0.0, *nothing)] * 2, "the optimizer's moments are no weights"


def test_switched_off_nothing_is_analysed(tmp_path: Path) -> None:
    telemetry = TelemetryCallback(metrics_port="off", checkpoints="off")
    build_trainer(tmp_path, [telemetry], max_steps=2, save_strategy="steps", save_steps=1).train()
    assert telemetry.run is not None
    assert telemetry.run.analysis is None
    assert not records(tmp_path, "checkpoint_analysis")


# The process


@pytest.fixture
def found() -> list[Analysis]:
    return []


@pytest.fixture
def analysis(found: list[Analysis]) -> Iterator[CheckpointAnalysis]:
    made = CheckpointAnalysis(found.append)
    yield made
    made.close(0.0)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "rlhf_otel-checkpoints"])


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie counts as gone
            found += [child] if "rlhf_otel.checkpoints.worker" in child.cmdline() else []
    return found


def test_the_process_stands_back_for_everybody_else(
    analysis: CheckpointAnalysis, found: list[Analysis], sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PRIORITY", ["--idle"])
    analysis.submit(20, sound / "checkpoint-20")
    until(lambda: workers() and os.sched_getscheduler(workers()[0].pid) == os.SCHED_IDLE)
    assert workers()[0].nice() == 19


def test_the_newest_waits_and_older_ones_are_passed_over(
    analysis: CheckpointAnalysis, found: list[Analysis], sound: Path
) -> None:
    for step in range(5):
        analysis.submit(step, sound / "checkpoint-23")
    until(lambda: analysis.latest is not None and analysis.latest.step == 4)
    assert analysis.outcomes["skipped"] >= 3
    assert sum(analysis.outcomes.values()) == 5
    assert len(workers()) == 1


def test_a_checkpoint_that_is_gone_is_an_outcome_not_a_fault(
    analysis: CheckpointAnalysis, found: list[Analysis], sound: Path
) -> None:
    analysis.submit(1, sound / "checkpoint-1")
    until(lambda: found)
    assert "does not exist" in found[0].error
    analysis.submit(20, sound / "checkpoint-20")
    until(lambda: len(found) == 2)
    assert found[1].health == 1.0
    assert analysis.outcomes == {"failed": 1, "done": 1, "skipped": 0}
    assert not faults.total()


def test_a_process_that_is_killed_costs_one_analysis(
    analysis: CheckpointAnalysis, found: list[Analysis], sound: Path
) -> None:
    analysis.submit(20, sound / "checkpoint-20")
    until(lambda: found)
    workers()[0].kill()
    until(lambda: not workers())
    for attempt in range(2):
        analysis.submit(23, sound / "checkpoint-23")
        until(lambda attempt=attempt: len(found) == attempt + 2)
    assert found[-1].health == 1.0
    assert found[-1].drift is not None


def test_infinities_and_nans_come_through(
    analysis: CheckpointAnalysis, found: list[Analysis], tmp_path: Path
) -> None:
    path, _ = changed("llama", filled("lm_head", float("nan"), one=False))(tmp_path)
    analysis.submit(23, path)
    until(lambda: found)
    assert found[0].health == 0.0
    assert found[0].counts["non-finite"] == 1
    assert "lm_head.weight" in found[0].sentence


def test_closing_does_not_wait_for_what_takes_long(sound: Path) -> None:
    closing = CheckpointAnalysis(lambda _: None)
    closing.submit(20, sound / "checkpoint-20")
    closing.close(0.0)
    until(lambda: not workers())
    closing.submit(23, sound / "checkpoint-23")
    assert not workers()


def test_instrumentation_of_the_parent_does_not_reach_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = "/site-packages/opentelemetry/instrumentation/auto_instrumentation"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/mine", agent]))
    environment = process.child_environment()
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == "/mine"
    assert agent not in environment["PYTHONPATH"]
    assert environment["OMP_NUM_THREADS"] == "1"


def test_every_outcome_is_counted_from_the_start() -> None:
    """Prometheus does not count the first sample of a series as an increase."""
    assert CheckpointAnalysis(lambda _: None).outcomes == {"done": 0, "failed": 0, "skipped": 0}
