"""The span of an analysis, as a real OTLP receiver gets it."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import otlp_receiver
from otlp_receiver import http_receiver

from rlhf_otel import faults
from rlhf_otel.checkpoints.process import Analysis
from rlhf_otel.exporters.span_tree import run_trace_id, trace_id
from rlhf_otel.exporters.traces import TraceExporter
from rlhf_otel.records import RunIdentity

FINDING = {
    "name": "non-finite",
    "severity": "critical",
    "where": "lm_head.weight",
    "evidence": "3 of 9 are NaN",
}


def test_an_analysis_is_a_span_of_the_run_with_its_findings_as_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    analysis = Analysis(40, "out/checkpoint-40", 0.25, 0.01, None, (FINDING,), {"non-finite": 1}, 2.5)
    end_ns = time.time_ns()
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        exporter = TraceExporter.from_environment(RunIdentity("run-7"))
        assert exporter is not None
        exporter.export_checkpoint(analysis, end_ns)
        assert exporter.flush(60)
        exporter.close(60)
        (got,) = receiver.wait_for(1)
    assert got.span.name == "rlhf.checkpoint_analysis"
    assert got.span.trace_id == run_trace_id("run-7", 1).to_bytes(16, "big")
    assert got.span.end_time_unix_nano == end_ns
    assert got.span.end_time_unix_nano - got.span.start_time_unix_nano == 2_500_000_000
    assert got.attributes["rl.train.step"] == 40
    assert got.attributes["rlhf.checkpoint.health"] == 0.25
    assert got.attributes["rlhf.checkpoint.drift"] == 0.01
    assert "rlhf.checkpoint.reference_drift" not in got.attributes
    (event,) = got.span.events
    told = otlp_receiver.attributes_of(event.attributes)
    assert (told["rlhf.checkpoint.finding"], told["rlhf.checkpoint.finding.where"]) == (
        "non-finite",
        "lm_head.weight",
    )
    assert got.span.links[0].trace_id == trace_id("run-7", 1, 40).to_bytes(16, "big")
    assert not faults.total()
