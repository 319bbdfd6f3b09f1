"""The trace exporter against real receivers and a real collector: what arrives, when, and how much of it."""

from __future__ import annotations

import logging
import os
import time
import tracemalloc
from pathlib import Path

import otlp_receiver
import pytest
from exporting import IDENTITY, Memory, export_two_steps, exporter, record
from otlp_receiver import Receiver

from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.span_tree import MAX_PHASES, run_trace_id, trace_id
from rlhf_otel.exporters.traces import SDK_LOGGERS, TraceExporter
from rlhf_otel.records import RunIdentity, StepRecord
from rlhf_otel.sources.phases import PhaseRecorder, nest

# --- real receivers ----------------------------------------------------------------------------------------


def check_content(receiver: Receiver) -> None:
    """What two exported steps look like where they arrive."""
    spans = {span.span.name: span for span in receiver.wait_for(7) if span.span.name != "rlhf.step"}
    steps = [got for got in receiver.spans if got.span.name == "rlhf.step"]
    assert len(receiver.spans) == 7
    assert [got.span.trace_id for got in steps] == [
        trace_id("run-7", 1, n).to_bytes(16, "big") for n in (3, 4)
    ]
    step = steps[0]
    assert step.span.parent_span_id == b""
    assert step.attributes["rl.train.step"] == 3
    assert step.attributes["rl.train.loss"] == 0.5
    assert step.attributes["rlhf.trace.kept_because"] == "anomaly"
    assert step.span.status.code == 2
    assert step.span.end_time_unix_nano - step.span.start_time_unix_nano == 1_000_000
    (event,) = step.span.events
    assert otlp_receiver.attributes_of(event.attributes)["rlhf.anomaly.rule"] == "NonFinite"
    assert step.span.links[0].span_id == spans["rlhf.run"].span.span_id
    assert len(step.span.links) == 1, "there was none before it"
    before = steps[1].span.links[1]
    assert (before.trace_id, before.span_id) == (step.span.trace_id, step.span.span_id)
    assert otlp_receiver.attributes_of(before.attributes) == {"rlhf.trace.previous_step": 3}
    assert spans["rlhf.run"].span.trace_id == run_trace_id("run-7", 1).to_bytes(16, "big")
    assert spans["rlhf.reward_function"].attributes["rl.reward.function"] == "reward_0"
    assert spans["rlhf.reward_function"].span.parent_span_id == spans["rlhf.reward"].span.span_id
    assert step.resource["rl.run.id"] == "run-7"
    assert step.resource["rlhf.world_size"] == 2
    assert step.resource["service.name"] == "rlhf_otel"
    assert step.scope == "rlhf_otel"


def test_http_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver.http_receiver() as receiver:
        export_two_steps(exporter(monkeypatch, receiver.endpoint))
        check_content(receiver)


def test_http_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver.http_receiver() as receiver:
        export_two_steps(exporter(monkeypatch, receiver.endpoint, OTEL_EXPORTER_OTLP_COMPRESSION="gzip"))
        check_content(receiver)


def test_grpc(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver.grpc_receiver() as receiver:
        export_two_steps(exporter(monkeypatch, receiver.endpoint, "grpc"))
        check_content(receiver)


@pytest.mark.servers
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_through_a_real_collector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protocol: str) -> None:
    program = otlp_receiver.rotel_program()
    if program is None:
        pytest.skip("the rotel wheel is not installed (pip install rotel==0.0.1a15)")
    with (
        otlp_receiver.grpc_receiver() if protocol == "grpc" else otlp_receiver.http_receiver() as receiver,
        otlp_receiver.rotel(program, receiver, protocol.split("/")[0], tmp_path) as collector,
    ):
        endpoint = collector.grpc if protocol == "grpc" else collector.http
        export_two_steps(exporter(monkeypatch, endpoint, protocol))
        check_content(receiver)


def test_close_sends_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver.http_receiver() as receiver:
        traces = exporter(monkeypatch, receiver.endpoint)
        traces.export(record(1), [], "first")
        traces.close(10)
        assert len(receiver.spans) == traces.exported == 4


# --- when --------------------------------------------------------------------------------------------------

AN_HOUR_MS = "3600000"


def test_a_kept_step_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the batch processor's delay is over."""
    with otlp_receiver.http_receiver() as receiver:
        traces = exporter(monkeypatch, receiver.endpoint, OTEL_BSP_SCHEDULE_DELAY=AN_HOUR_MS)
        for step, spans in ((1, 4), (2, 7), (3, 10)):
            traces.export(record(step), [], "slow")
            receiver.wait_for(spans, 30)
        traces.close(5)


def test_what_is_kept_while_a_request_is_under_way_goes_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", AN_HOUR_MS)
    memory = Memory()
    memory.go_on.clear()
    traces = TraceExporter(IDENTITY, memory)
    for step in range(1, 101):
        traces.export(record(step), [], "slow")
    memory.go_on.set()
    otlp_receiver.wait_until(lambda: len(memory.spans) == 301, 30)
    assert memory.requests <= 3
    traces.close(5)


# --- bounds and the end ------------------------------------------------------------------------------------


def test_a_full_queue_drops_whole_steps_and_counts_them() -> None:
    memory = Memory()
    memory.go_on.clear()
    traces = TraceExporter(IDENTITY, memory, max_pending=600)
    for step in range(1, 301):
        traces.export(record(step), [], "slow")
    assert traces.dropped == 3 * (300 - 199)  # the run's span and 199 steps of 3 fit into 600
    memory.go_on.set()
    traces.close(5)
    assert traces.exported + traces.dropped == 3 * 300 + 1
    by_trace: dict[int, int] = {}
    for span in memory.spans:
        by_trace[span.context.trace_id] = by_trace.get(span.context.trace_id, 0) + 1
    assert set(by_trace.values()) == {1, 3}, "a step arrives whole (3) or not at all; 1 is the run's span"


def test_phases_beyond_the_limit_are_counted() -> None:
    memory = Memory()
    traces = TraceExporter(IDENTITY, memory)
    traces.export(record(1, phases=MAX_PHASES + 70), [], "slow")
    traces.close(5)
    assert (traces.exported, traces.dropped) == (MAX_PHASES + 2, 70)


def test_a_hundred_thousand_calls_in_a_step_cost_no_more_than_their_bounds() -> None:
    """As many spans as fit, the longest; the rest is counted, and memory is that of what is kept."""
    recorder, calls = PhaseRecorder(), 100_000
    tracemalloc.start()
    try:
        whole = recorder.begin("reward")
        for _ in range(calls):
            recorder.end(recorder.begin("reward_function", "f"))
        recorder.end(whole)
        phases = nest(recorder.take_step(recorder.end_step()))
        step = StepRecord(1, 0.0, StepKind.REUSE, whole[2], phases[-1].end_ns, time.time_ns(), phases=phases)
        step.phases_left_out = recorder.left_out
        memory = Memory()
        traces = TraceExporter(IDENTITY, memory)
        traces.export(step, [], "slow")
        traces.close(30)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (traces.exported, traces.dropped) == (MAX_PHASES + 2, calls + 1 - MAX_PHASES)
    (found,) = [span for span in memory.spans if span.name == "rlhf.step"]
    assert found.attributes["rlhf.trace.phases_left_out"] == calls + 1 - MAX_PHASES
    assert peak < 20 << 20, "the calls themselves would be 40 MB"


def test_after_close_nothing_is_sent_and_all_is_counted() -> None:
    memory = Memory()
    traces = TraceExporter(IDENTITY, memory)
    traces.close(5)
    traces.close(5)
    traces.export(record(1), [], "first")
    assert not traces.flush(1)
    assert (traces.exported, traces.dropped, memory.spans) == (0, 4, [])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_sends_nothing_and_ends_nothing() -> None:
    memory = Memory()
    traces = TraceExporter(IDENTITY, memory)
    traces.export(record(1), [], "first")
    child = os.fork()
    if not child:
        traces.export(record(2), [], "slow")
        traces.flush(5)
        traces.close(5)
        os._exit(len([span for span in memory.spans if span.attributes.get("rl.train.step") == 2]))
    assert os.waitpid(child, 0)[1] == 0
    traces.export(record(3), [], "slow")
    traces.close(5)
    assert (traces.exported, traces.dropped) == (7, 0)


def test_only_rank_0_emits_the_run_span_and_only_once() -> None:
    for rank, expected in ((0, 1), (1, 0)):
        memory = Memory()
        traces = TraceExporter(RunIdentity("run-7", rank=rank), memory)
        for step in (1, 2):
            traces.export(record(step), [], "slow")
        traces.close(5)
        assert [span.name for span in memory.spans].count("rlhf.run") == expected


def test_the_sdks_loggers_are_left_as_they_were_and_others_still_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loggers = [logging.getLogger(name) for name in SDK_LOGGERS]
    before = [list(logger.filters) for logger in loggers]
    traces = TraceExporter(IDENTITY, Memory())
    loggers[0].warning("another exporter's trouble")
    assert "another exporter's trouble" in caplog.text
    traces.close(5)
    assert [logger.filters for logger in loggers] == before
