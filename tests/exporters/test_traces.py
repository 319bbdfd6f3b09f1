"""The trace exporter against real receivers, a real collector, and endpoints that are not there or hang."""

from __future__ import annotations

import logging
import os
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import otlp_receiver
import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from otlp_receiver import Receiver

from rlhf_otel import faults
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.span_tree import MAX_PHASES, run_trace_id, trace_id
from rlhf_otel.exporters.traces import SDK_LOGGERS, TraceExporter
from rlhf_otel.records import Anomaly, PhaseInterval, RunIdentity, StepRecord
from rlhf_otel.sources.phases import PhaseRecorder, nest

IDENTITY = RunIdentity("run-7", algorithm="grpo", model="tiny", world_size=2)
ANOMALY = Anomaly(
    "NonFinite", Severity.CRITICAL, "loss", float("nan"), None, None, "value", None, 3, 3, 10**18, "", ""
)
AN_HOUR_MS = "3600000"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No OTEL_* from outside, and no faults from before."""
    for key in [key for key in os.environ if key.startswith("OTEL_")]:
        monkeypatch.delenv(key)
    faults.reset()
    yield
    faults.reset()


def record(step: int, phases: int = 2) -> StepRecord:
    inner = [
        PhaseInterval("reward_function", f"reward_{i}", 10 + i, 11 + i, 0, 1, False)
        for i in range(phases - 1)
    ]
    start, end = 0, 1_000_000
    outer = [PhaseInterval("reward", "", 5, 900_000, -1, 1, False)]
    return StepRecord(
        step, 0.1, StepKind.REUSE, start, end, time.time_ns(), {"loss": 0.5}, phases=outer + inner
    )


def exporter(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, protocol: str = "", **variables: str
) -> TraceExporter:
    monkeypatch.setenv(ENDPOINT, endpoint)
    if protocol:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    made = TraceExporter.from_environment(IDENTITY)
    assert made is not None
    return made


class Memory(SpanExporter):
    """A span exporter whose answers a test decides."""

    def __init__(self, result: SpanExportResult = SpanExportResult.SUCCESS) -> None:
        self.result = result
        self.spans: list[Any] = []
        self.requests = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def export(self, spans: Any) -> SpanExportResult:
        self.go_on.wait(20)
        self.requests += 1
        if self.result is SpanExportResult.SUCCESS:
            self.spans.extend(spans)
        return self.result

    def shutdown(self) -> None:
        self.go_on.set()


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


def export_two_steps(traces: TraceExporter) -> None:
    traces.export(record(3), [ANOMALY], "anomaly")
    traces.export(record(4), [], "slow")
    assert traces.flush(10)
    assert (traces.exported, traces.dropped) == (7, 0)
    traces.close(5)


# --- real receivers ----------------------------------------------------------------------------------------


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


# --- endpoints that fail -----------------------------------------------------------------------------------


def check_one_fault(caplog: pytest.LogCaptureFixture) -> str:
    """Of all that went wrong, one fault was counted and one line logged."""
    assert faults.counts()["traces"] == 1
    (line,) = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert line.name == "rlhf_otel"
    return f"{line.getMessage()} {line.exc_info[1] if line.exc_info else ''}"


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_unreachable_endpoint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    port = otlp_receiver.free_port()
    traces = exporter(monkeypatch, f"http://127.0.0.1:{port}", protocol, OTEL_EXPORTER_OTLP_TIMEOUT="1.5")
    for step in (1, 2):
        traces.export(record(step), [], "slow")
        traces.flush(10)
    began = time.monotonic()
    traces.close(2)
    assert time.monotonic() - began < 3
    assert (traces.exported, traces.dropped) == (0, 7)
    message = check_one_fault(caplog)
    assert f"127.0.0.1:{port}" in message
    assert "refused" in message


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_hanging_endpoint(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    with otlp_receiver.hanging_server() as endpoint:
        traces = exporter(monkeypatch, endpoint, protocol)
        began = time.monotonic()
        for step in range(1, 1_000):
            traces.export(record(step), [], "slow")
        exporting = time.monotonic() - began
        assert not traces.flush(0.3)
        began = time.monotonic()
        traces.close(0.5)
        assert time.monotonic() - began < 3, "the SDK alone waits 10 s a batch and 30 s in all"
        assert exporting < 5
        assert traces.exported == 0
        assert traces.dropped == 3 * 999 + 1
        check_one_fault(caplog)


def test_an_export_that_hangs_beyond_the_end_stays_quiet_and_uncounted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Late(Memory):
        def export(self, spans: Any) -> SpanExportResult:
            self.go_on.wait(20)
            logging.getLogger(SDK_LOGGERS[0]).error("the SDK's last word")
            return super().export(spans)

        def shutdown(self) -> None:
            """Interrupts nothing."""

    logger = logging.getLogger(SDK_LOGGERS[0])
    before, memory = list(logger.filters), Late()
    memory.go_on.clear()
    traces = TraceExporter(IDENTITY, memory)
    traces.export(record(1), [], "first")
    traces.close(0.1)
    memory.go_on.set()
    # Another test's exporter may take its own filter off meanwhile: none of ours may be left.
    otlp_receiver.wait_until(lambda: len(memory.spans) == 4 and all(f in before for f in logger.filters))
    assert (traces.exported, traces.dropped) == (0, 4)
    assert "no answer before the end; 4 spans are lost" in check_one_fault(caplog)


def test_refusing_endpoint(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with otlp_receiver.http_receiver(status=400) as receiver:
        traces = exporter(monkeypatch, receiver.endpoint)
        traces.export(record(1), [], "first")
        assert traces.flush(5)
        traces.close(5)
        assert (traces.exported, traces.dropped) == (0, 4)
        assert "400" in check_one_fault(caplog)


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_spans_that_are_rejected_of_a_request_are_dropped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    """By a partial success, which the SDK takes for a success."""
    receiving = otlp_receiver.grpc_receiver if protocol == "grpc" else otlp_receiver.http_receiver
    with receiving(rejects=3) as receiver:
        traces = exporter(monkeypatch, receiver.endpoint, protocol)
        traces.export(record(1), [], "first")
        assert traces.flush(10)
        traces.close(5)
    assert receiver.requests == 1
    assert (traces.exported, traces.dropped) == (1, 3)
    assert "rejected 3 spans: too old" in check_one_fault(caplog)


def test_an_endpoint_that_answers_something_else_has_rejected_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        otlp_receiver.Response, "SerializeToString", lambda *_: b"<html>thank you</html>", raising=False
    )
    with otlp_receiver.http_receiver() as receiver:
        traces = exporter(monkeypatch, receiver.endpoint)
        traces.export(record(1), [], "first")
        assert traces.flush(10)
        traces.close(5)
    assert (traces.exported, traces.dropped) == (4, 0)


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


def test_each_outage_is_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory(SpanExportResult.FAILURE)
    traces = TraceExporter(IDENTITY, memory)
    for result in (SpanExportResult.FAILURE, SpanExportResult.SUCCESS, SpanExportResult.FAILURE):
        memory.result = result
        for step in (1, 2):
            traces.export(record(step), [], "slow")
            traces.flush(5)
    traces.close(5)
    assert faults.counts()["traces"] == 2
    assert traces.exported + traces.dropped == 3 * 6 + 1
    assert len(caplog.records) == 1


def test_an_exporter_that_raises_is_a_fault_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    memory = Memory()
    memory.spans = None  # type: ignore[assignment]
    traces = TraceExporter(IDENTITY, memory)
    traces.export(record(1), [], "first")
    assert traces.flush(5)
    traces.close(5)
    assert traces.dropped == 4
    assert "NoneType" in check_one_fault(caplog)


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
