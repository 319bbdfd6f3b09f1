"""What the tests of the trace exporter export, and to whom."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from rlhf_otel import faults
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.traces import TraceExporter
from rlhf_otel.records import Anomaly, PhaseInterval, RunIdentity, StepRecord

IDENTITY = RunIdentity("run-7", algorithm="grpo", model="tiny", world_size=2)
ANOMALY = Anomaly(
    "NonFinite", Severity.CRITICAL, "loss", float("nan"), None, None, "value", None, 3, 3, 10**18, "", ""
)
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


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


def export_two_steps(traces: TraceExporter) -> None:
    traces.export(record(3), [ANOMALY], "anomaly")
    traces.export(record(4), [], "slow")
    assert traces.flush(10)
    assert (traces.exported, traces.dropped) == (7, 0)
    traces.close(5)


def check_one_fault(caplog: pytest.LogCaptureFixture) -> str:
    """Of all that went wrong, one fault was counted and one line logged."""
    assert faults.counts()["traces"] == 1
    (line,) = [entry for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert line.name == "rlhf_otel"
    return f"{line.getMessage()} {line.exc_info[1] if line.exc_info else ''}"
