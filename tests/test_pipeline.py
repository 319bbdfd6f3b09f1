"""The pipeline: a record in, a snapshot out, a journal beside it; one fault costs nothing else."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from judged_steps import NAN, a_pipeline, health, observe, record

from rlhf_otel import faults
from rlhf_otel.catalogue.metrics import STEP_DURATION_BUCKETS
from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.records import Anomaly

SOON_S = 60.0

# Snapshot


def test_a_step_is_published_whole() -> None:
    of = a_pipeline()
    before = of.snapshot
    observe(of, record(1, loss=0.5), record(2, loss=0.4, reward=1.0))
    now = of.snapshot
    assert (now.step, now.tokens, now.telemetry_s) == (2, 20.0, 0.5)
    assert (now.values["loss"], now.values["reward"], now.values["step_duration"]) == (0.4, 1.0, 1.0)
    assert now.statistics["loss"].average == pytest.approx(0.5 - 0.1 * 2 / 11)
    assert (before.step, before.values, before.tokens) == (0, {}, 0.0), "an older snapshot does not change"


def test_what_a_step_lacks_keeps_its_latest_value_unless_it_is_momentary() -> None:
    of = a_pipeline()
    observe(of, record(1, reward=1.0, gpu_memory_used=0.9), record(2, loss=0.5))
    assert of.snapshot.values["reward"] == 1.0
    assert of.snapshot.values["gpu_memory_used"] is None


def test_durations_are_counted_by_kind_and_bucket() -> None:
    of = a_pipeline()
    assert set(of.snapshot.durations) == {"generate"}, "a histogram is there from the start"
    observe(of, record(1, 0.05), record(2, 0.06), record(3, 1e6), record(4, 0.2, StepKind.REUSE))
    generate, reuse = of.snapshot.durations["generate"], of.snapshot.durations["reuse"]
    assert generate.counts == (1, 1, *[0] * (len(STEP_DURATION_BUCKETS) - 2), 1)
    assert generate.total == pytest.approx(1e6 + 0.11)
    assert (sum(reuse.counts), reuse.total) == (1, 0.2)


def test_what_is_not_finite_is_counted_by_signal() -> None:
    of = a_pipeline()
    assert of.snapshot.nonfinite["loss"] == 0, "counters are there from the start"
    observe(of, record(1, loss=NAN), record(2, loss=math.inf, reward=NAN), record(3, loss=0.1))
    assert (of.snapshot.nonfinite["loss"], of.snapshot.nonfinite["reward"]) == (2, 1)


def test_an_evaluation_is_compared_with_training() -> None:
    of = a_pipeline()
    observe(of, record(1, reward=1.0))
    assert "evaluation_gap" not in of.snapshot.values
    of.evaluation({"reward": 0.5}, 1, 1.0)
    observe(of, record(2, reward=1.0))
    assert of.snapshot.values["evaluation_gap"] == 0.5
    assert (of.snapshot.evaluations, of.snapshot.evaluation) == (1, {"reward": 0.5})


def test_the_stall_threshold_follows_the_usual_step() -> None:
    of = a_pipeline(stall_floor_s=10.0, stall_multiple=3.0, stall_patience_s=2000.0)
    assert of.snapshot.stall_threshold_s == 2000.0, "the first step may compile"
    observe(of, record(1, 100.0))
    assert of.snapshot.stall_threshold_s == 300.0
    observe(of, record(2, 1.0))
    assert of.snapshot.stall_threshold_s == 10.0, "never below the floor"
    observe(of, record(3, 8.0))
    assert of.snapshot.stall_threshold_s == 24.0


def test_evaluations_and_checkpoints_are_no_part_of_a_usual_step() -> None:
    of = a_pipeline(stall_floor_s=10.0)
    observe(of, record(1, 4.0), record(2, 4.0))
    long = record(3, 604.0)
    long.absorbed_s = 600.0
    observe(of, long)
    assert (of.snapshot.stall_threshold_s, of.snapshot.absorbed_s) == (12.0, 600.0)
    observe(of, record(4, 4.0))
    assert of.snapshot.absorbed_s == 600.0, "where a step does not know, what was known stays"


def test_what_follows_the_last_step_has_patience() -> None:
    of = a_pipeline(stall_floor_s=10.0, stall_patience_s=2000.0)
    of.snapshot = of.snapshot._replace(planned_steps=2)
    observe(of, record(1))
    assert of.snapshot.stall_threshold_s == 10.0
    observe(of, record(2))
    assert of.snapshot.stall_threshold_s == 2000.0


# Anomalies


def test_anomalies_are_returned_once_and_stay_in_the_snapshot() -> None:
    of = a_pipeline()
    (anomaly,) = observe(of, record(1, loss=NAN))
    assert (anomaly.rule, anomaly.step) == ("NonFinite", 1)
    assert observe(of, record(2, loss=NAN)) == []
    (verdict,) = [found for found in of.snapshot.verdicts if found.active]
    assert (verdict.rule, verdict.total, verdict.last_step) == (RULE_BY_NAME["NonFinite"], 1, 2)


def test_an_answer_may_change_an_anomaly_and_its_fault_does_not_lose_it() -> None:
    of = a_pipeline()
    of.answer = lambda anomaly: replace(anomaly, detail="stopped")
    (anomaly,) = observe(of, record(1, loss=NAN))
    assert anomaly.detail == "stopped"

    def fails(anomaly: Anomaly) -> Anomaly:
        raise RuntimeError("injected")

    of = a_pipeline()
    of.answer = fails
    assert [found.rule for found in observe(of, record(1, loss=NAN))] == ["NonFinite"]
    assert faults.total() == 1


def test_a_step_that_raised_is_judged_by_what_is_not_finite() -> None:
    of = a_pipeline()
    observe(of, record(1, loss=0.5))
    (anomaly,) = of.failed_step(record(2, grad_norm=NAN))
    assert (anomaly.rule, anomaly.signal) == ("NonFinite", "grad_norm")
    assert of.snapshot.step == 1, "it did not finish"
    assert of.snapshot.nonfinite["grad_norm"] == 1


def test_another_rank_judges_its_own_faults_alone() -> None:
    of = a_pipeline(rank=1)
    assert [anomaly.rule for anomaly in observe(of, record(1, loss=NAN))] == ["NonFinite"]
    assert [verdict.rule.name for verdict in of.snapshot.verdicts] == ["NonFinite"]
    assert of.snapshot.statistics.keys() == {"step_duration"}


# Faults


def test_a_fault_of_detection_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    of = a_pipeline()

    def fails(*_: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr("rlhf_otel.detection.detector.Detector.observe", fails)
    assert observe(of, record(1, loss=0.5), record(2, loss=0.4)) == []
    assert (of.snapshot.step, of.snapshot.values["loss"]) == (2, 0.4)
    assert health(of)[0]
    assert faults.counts()["detection"] == 2


def test_baselines_that_cannot_be_restored_are_a_fault_and_start_anew() -> None:
    of = a_pipeline()
    of.resume({"generate": {"loss": {"no such field": 1}}})
    observe(of, record(1, loss=0.5))
    assert faults.counts()["detection"] == 1
    assert of.snapshot.step == 1


# The background


def test_what_is_handed_on_arrives_in_order_and_before_the_end(tmp_path: Path) -> None:
    of = a_pipeline(tmp_path)
    of.start(10, 0, {"learning_rate": 1e-5})
    for step in range(1, 4):
        of.submit(of.step, record(step, loss=0.5), 1.0, 0.0)
    of.checkpoint(3, "/data/checkpoint-3")
    of.end(Outcome.FINISHED)
    of.close(SOON_S)
    types = [found["type"] for found in read_journal(tmp_path)]
    assert types == ["run", "step", "health", "step", "step", "checkpoint", "epoch", "end"]
    assert of.snapshot.last_checkpoint is not None
    assert (of.snapshot.last_checkpoint[0], of.snapshot.checkpoints, of.snapshot.planned_steps) == (3, 1, 10)


def test_flushing_waits_for_what_was_handed_on() -> None:
    of = a_pipeline()
    of.start(10, 0, {})
    of.submit(of.step, record(1, loss=0.5), 1.0, 0.0)
    of.flush(SOON_S)
    assert of.snapshot.step == 1
    assert of.telemetry(3, 0.5)[:1] == (0,)
    assert of.telemetry(3, 0.5).scrapes == 3
    of.close(SOON_S)
