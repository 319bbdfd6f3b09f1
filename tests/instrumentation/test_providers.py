"""Providers that the user has set up are used, not replaced. Global ones can be set once in a process: hence children."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent.parent
SCRIPT = """
import json, sys
from pathlib import Path
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

memory = InMemorySpanExporter()
tracers = TracerProvider(resource=Resource({"service.name": "theirs"}))
if "--without-processor" not in sys.argv:
    tracers.add_span_processor(SimpleSpanProcessor(memory))
meters = MeterProvider()
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(meters)

import rlhf_otel
from tiny import build_trainer

rlhf_otel.instrument()
with trace.get_tracer("theirs").start_as_current_span("their own"):
    build_trainer(Path(sys.argv[1]), max_steps=3).train()
rlhf_otel.uninstrument()

assert trace.get_tracer_provider() is tracers
assert metrics.get_meter_provider() is meters
spans = [
    {"name": s.name, "service": s.resource.attributes["service.name"], "run": s.resource.attributes.get("rl.run.id")}
    for s in memory.get_finished_spans()
]
print(json.dumps(spans))
"""


def spans(tmp_path: Path, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    """Spans that the user's exporter got."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RLHF_OTEL_", "OTEL_"))},
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        "RLHF_OTEL_RUN_ID": "mine",
        "RLHF_OTEL_METRICS_PORT": "off",
        "RLHF_OTEL_TRACE_ONE_IN": "1",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *arguments],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_kept_steps_go_the_way_of_the_users_spans(tmp_path: Path) -> None:
    found = spans(tmp_path)
    assert [span["name"] for span in found].count("rlhf.step") == 3
    assert {span["name"] for span in found} >= {"their own", "rlhf.step", "rlhf.run", "rlhf.generate"}
    assert {span["service"] for span in found} == {"theirs"}
    assert {span["run"] for span in found if span["name"].startswith("rlhf.")} == {"mine"}


@pytest.mark.slow
def test_a_provider_that_does_nothing_with_spans_gets_none(tmp_path: Path) -> None:
    assert spans(tmp_path, "--without-processor") == []
