"""The pipeline: a record in, a snapshot out, a journal and traces beside it; one fault costs nothing else."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf_otel import faults, run_health, step_traces
from rlhf_otel.catalogue.metrics import STEP_DURATION_BUCKETS
from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.exporters.journal import JournalWriter, read_journal
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import Anomaly, DeviceTimes, OpenPhase, RunIdentity, StepRecord
from rlhf_otel.settings import Settings
from rlhf_otel.slow_steps import read_steps
from rlhf_otel.step_traces import MOST_HELD

NAN = math.nan
SECOND_NS = 10**9


def health_of(
    pipeline: Pipeline, stall_limit_s: float | None = None, open_phase: OpenPhase | None = None
) -> tuple[bool, str]:
    """By default with what a step without evaluations and checkpoints may take."""
    limit_s = pipeline.snapshot.stall_threshold_s if stall_limit_s is None else stall_limit_s
    return run_health.health(pipeline.snapshot, pipeline.end_of_run, limit_s, open_phase)


SOON_S = 60.0


def record(
    step: int, seconds: float = 1.0, kind: StepKind = StepKind.GENERATE, **values: float
) -> StepRecord:
    found = StepRecord(step, 0.0, kind, 0, int(seconds * SECOND_NS), time.time_ns(), values)
    found.nonfinite.update({name: 1 for name, value in values.items() if not math.isfinite(value)})
    return found


def a_pipeline(directory: Path | None = None, rank: int = 0, **settings: Any) -> Pipeline:
    identity = RunIdentity("r", algorithm="grpo", rank=rank)
    return Pipeline(identity, Settings(journal="off", **settings), directory)


def observe(of: Pipeline, *records: StepRecord) -> list[Anomaly]:
    return [anomaly for found in records for anomaly in of.step(found, 10.0, 0.5)]


class Traces:
    """Stands in for the OTLP exporter: keeps what it is given, or fails."""

    dropped = exported = 0

    def __init__(self) -> None:
        self.kept: list[tuple[int, str, int]] = []
        self.error: Exception | None = None

    def export(self, kept: StepRecord, anomalies: Sequence[Anomaly], reason: str) -> None:
        if self.error is not None:
            raise self.error
        self.kept.append((kept.step, reason, len(anomalies)))

    def flush(self, timeout_s: float) -> None: ...

    def close(self, timeout_s: float) -> None: ...


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> Traces:
    found = Traces()
    monkeypatch.setattr(step_traces, "exporter_of", lambda identity: found)
    return found


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


# Health


def test_health_of_a_run() -> None:
    of = a_pipeline()
    assert health_of(of) == (True, "ok: step 0")
    observe(of, record(1, loss=0.5))
    assert health_of(of) == (True, "ok: step 1")
    observe(of, record(2, loss=NAN))
    well, reason = health_of(of)
    assert not well
    assert "non-finite loss at step 2" in reason


def test_health_is_scored_at_each_step_and_written_where_it_changes(tmp_path: Path) -> None:
    of = a_pipeline(tmp_path)
    observe(of, *(record(step, loss=0.5, grad_norm=1.0) for step in range(1, 6)))
    assert of.snapshot.health.overall == 1.0
    assert of.snapshot.health.aspects == {"stability": 1.0}
    observe(of, record(6, loss=NAN))
    assert of.snapshot.health.overall == 0.0
    told = [found for found in read_journal(tmp_path) if found["type"] == "health"]
    assert [(found["step"], found["overall"]) for found in told] == [(1, 1.0), (6, 0.0)]
    assert told[-1]["aspects"] == {"stability": 0.0}
    assert 0 < told[-1]["coverage"] < 0.5, "most of GRPO's rules had nothing to judge"


def test_a_step_that_failed_counts_in_the_health() -> None:
    of = a_pipeline()
    observe(of, record(1, loss=0.5))
    of.failed_step(record(2, loss=NAN))
    assert of.snapshot.health.aspects["stability"] == 0.0


def test_other_ranks_have_no_health() -> None:
    of = a_pipeline(rank=1)
    observe(of, record(1, loss=0.5))
    assert of.snapshot.health.overall is None


def test_a_run_without_steps_for_long_has_stalled() -> None:
    of = a_pipeline(stall_floor_s=30.0)
    observe(of, record(1, loss=0.5))
    of.snapshot = of.snapshot._replace(time_s=time.time() - 31.0)
    well, reason = health_of(of)
    assert not well
    assert "stalled" in reason
    assert "after step 1" in reason
    assert health_of(of, 40.0)[0], "it is told that it may take longer"
    assert health_of(of, 30.0, OpenPhase("reward", 29.0))[1].endswith("after step 1, in reward for 29 s")


@pytest.mark.parametrize(
    ("outcome", "well"), [(Outcome.FINISHED, True), (Outcome.INTERRUPTED, True), (Outcome.FAILED, False)]
)
def test_an_ended_run_is_well_unless_it_failed(outcome: Outcome, well: bool) -> None:
    of = a_pipeline()
    observe(of, record(1, loss=NAN))
    of.end(outcome, "because")
    assert health_of(of) == (well, f"run {outcome} at step 1: because")


# Faults


def test_a_fault_of_detection_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    of = a_pipeline()

    def fails(*_: object) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr("rlhf_otel.detection.detector.Detector.observe", fails)
    assert observe(of, record(1, loss=0.5), record(2, loss=0.4)) == []
    assert (of.snapshot.step, of.snapshot.values["loss"]) == (2, 0.4)
    assert health_of(of)[0]
    assert faults.counts()["detection"] == 2


def test_a_fault_of_traces_costs_no_journal_and_no_anomaly(traces: Traces, tmp_path: Path) -> None:
    traces.error = RuntimeError("injected")
    of = a_pipeline(tmp_path)
    assert [anomaly.rule for anomaly in observe(of, record(1, loss=NAN))] == ["NonFinite"]
    assert faults.counts()["traces"] == 1
    assert [found["type"] for found in read_journal(tmp_path)] == ["step", "anomaly", "health"]


def test_a_fault_of_the_journal_costs_no_trace(
    traces: Traces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalWriter, "_append", full)
    of = a_pipeline(tmp_path)
    observe(of, record(1, loss=NAN))
    assert traces.kept == [(1, "anomaly", 1)]
    assert of.snapshot.step == 1
    assert faults.counts()["journal"] == 1
    assert of.telemetry(0, 0.0).dropped["journal"] == 3


def test_baselines_that_cannot_be_restored_are_a_fault_and_start_anew() -> None:
    of = a_pipeline()
    of.resume({"generate": {"loss": {"no such field": 1}}})
    observe(of, record(1, loss=0.5))
    assert faults.counts()["detection"] == 1
    assert of.snapshot.step == 1


# Traces


def test_the_first_the_slow_and_the_anomalous_steps_are_traced(traces: Traces) -> None:
    of = a_pipeline(trace_one_in=1000)
    steps = [record(step, 1.0 + step % 2 / 100, loss=0.5) for step in range(1, 40)]
    observe(of, *steps, record(40, 60.0, loss=0.5), record(41, loss=NAN))
    kept = {step: reason for step, reason, _ in traces.kept}
    assert kept[1] == "first"
    assert kept[40] in ("slow", "anomaly")
    assert kept[41] == "anomaly"
    assert len(kept) < 10


@pytest.mark.parametrize(("tokens", "kept"), [(2500.0, []), (1000.0, ["slow"]), (0.0, ["slow"])])
def test_a_step_is_slow_if_its_tokens_do_not_explain_it(
    traces: Traces, tokens: float, kept: list[str]
) -> None:
    of = a_pipeline(trace_one_in=1000)
    for step in range(1, 41):
        found = record(step, 1.0 + step % 2 / 100)
        found.tokens = 1000.0 + step % 2 * 10
        observe(of, found)
    long = record(41, 2.5)
    long.tokens = tokens
    observe(of, long)
    assert [reason for step, reason, _ in traces.kept if step == 41] == kept


def test_a_kept_step_waits_for_its_device_times_and_its_file_does_not(traces: Traces, tmp_path: Path) -> None:
    of = a_pipeline(tmp_path, trace_one_in=1)
    steps = [record(step) for step in (1, 2, 3)]
    for found in steps:
        found.device = DeviceTimes()
    observe(of, steps[0])
    assert traces.kept == []
    assert [step.step for step in read_steps(tmp_path / "trace-rank0.json").steps] == [1]
    assert steps[0].device is not None
    steps[0].device.known = True
    observe(of, steps[1])
    assert [step for step, *_ in traces.kept] == [1]
    observe(of, steps[2])
    of.traces.release()
    assert [step for step, *_ in traces.kept] == [1, 2, 3], "who flushes has no patience"


def test_steps_do_not_pile_up_behind_a_device_that_hangs(traces: Traces) -> None:
    of = a_pipeline(trace_one_in=1)
    for step in range(1, 31):
        found = record(step)
        found.device = DeviceTimes()
        observe(of, found)
    assert [step for step, *_ in traces.kept] == list(range(1, len(traces.kept) + 1))
    assert len(traces.kept) >= 30 - MOST_HELD - 1


def test_a_rule_s_trace_id_changes_at_most_once_a_minute(traces: Traces) -> None:
    of = a_pipeline()

    def trace_at(step: int, seconds: float) -> str:
        found = record(step, loss=NAN)
        found.time_ns = int((1e9 + seconds) * SECOND_NS)
        observe(of, found)
        return of.snapshot.anomaly_traces["NonFinite"]

    first = trace_at(1, 0)
    assert trace_at(2, 30) == first
    later = trace_at(3, 61)
    assert later != first
    assert len(later) == 32


def test_a_duration_carries_the_trace_of_its_step(traces: Traces) -> None:
    of = a_pipeline()
    observe(of, record(1, 2.0), record(2, 1.0))
    exemplar = of.snapshot.durations["generate"].exemplar
    assert exemplar is not None
    assert exemplar[0] == 2.0


def test_an_early_stall_is_in_vain_too() -> None:
    """Before there is a baseline; a first step that is long may compile."""
    of = a_pipeline(stall_floor_s=5.0)
    observe(of, record(1, 100.0), record(2, 1.0), record(3, 1.0))
    assert of.snapshot.wasted == {}
    observe(of, record(4, 31.0))
    assert of.snapshot.wasted == {"stall": pytest.approx(30.0)}


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
