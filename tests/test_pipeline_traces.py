"""Which steps the pipeline hands to the trace exporter, when, and what a fault there costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from judged_steps import NAN, SECOND_NS, a_pipeline, observe, record

from rlhf_otel import faults, step_traces
from rlhf_otel.exporters.journal import JournalWriter, read_journal
from rlhf_otel.records import Anomaly, DeviceTimes, StepRecord
from rlhf_otel.slow_steps import read_steps
from rlhf_otel.step_traces import MOST_HELD


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


# Faults


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
