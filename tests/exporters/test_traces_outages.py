"""The trace exporter and endpoints that are not there, hang, refuse or reject: one fault each, and all is counted."""

from __future__ import annotations

import logging
import time
from typing import Any

import otlp_receiver
import pytest
from exporting import IDENTITY, Memory, check_one_fault, exporter, record
from opentelemetry.sdk.trace.export import SpanExportResult

from rlhf_otel import faults
from rlhf_otel.exporters.traces import SDK_LOGGERS, TraceExporter


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
