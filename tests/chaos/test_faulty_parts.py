"""A part of ours that raises, or that never returns: the others and training go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from observing import fetch, journal, once_per_fault
from outcomes import STEPS, Outcome, outcome
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, faults, pipeline
from rlhf_otel.background import Background
from rlhf_otel.checkpoints.process import CheckpointAnalysis
from rlhf_otel.detection.detector import Detector
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.traces import TraceExporter
from rlhf_otel.step_observer import StepObserver

PARTS: dict[str, tuple[type, str, dict[str, Any]]] = {
    "rules": (Detector, "observe", {}),
    "journal": (JournalWriter, "write", {}),
    "traces": (TraceExporter, "export", {"trace_one_in": 1}),
    "checkpoints": (CheckpointAnalysis, "submit", {}),
    "exposition": (RunsCollector, "collect", {}),
}
SAVES: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4}


@pytest.fixture(scope="module")
def unobserved_with_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome(tmp_path_factory.mktemp("unobserved"), **SAVES)


class Scrapes(TrainerCallback):
    """Asks for metrics at each step, on a thread of its own, which may not come back."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.threads: list[threading.Thread] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.threads.append(threading.Thread(target=self._ask))
        self.threads[-1].start()

    def _ask(self) -> None:
        self.statuses.append(fetch("/metrics")[0])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_that_raises(
    part: str,
    unobserved_with_checkpoints: Outcome,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("broken on purpose")

    owner, method, settings = PARTS[part]
    monkeypatch.setattr(owner, method, broken)
    if part == "traces":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    scrapes = Scrapes()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal", **settings)
    assert outcome(tmp_path, [telemetry, scrapes], **SAVES) == unobserved_with_checkpoints
    for thread in scrapes.threads:
        thread.join()
    assert set(once_per_fault(caplog).values()) == {1}
    assert faults.total() > 1
    if part != "journal":
        assert len(journal(tmp_path / "journal", "step")) == STEPS


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type, str], None]]:
    """Makes a method wait until the test is over."""
    release = threading.Event()

    def stick(owner: type, method: str) -> None:
        monkeypatch.setattr(owner, method, lambda *_, **__: release.wait(120))

    yield stick
    release.set()


@pytest.mark.parametrize(
    "part", ["rules", *(pytest.param(part, marks=pytest.mark.slow) for part in ("journal", "checkpoints"))]
)
def test_a_part_that_never_returns(
    part: str,
    unobserved_with_checkpoints: Outcome,
    stuck: Callable[[type, str], None],
    tmp_path: Path,
) -> None:
    owner, method, settings = PARTS[part]
    stuck(owner, method)
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal", linger_s=0, **settings)
    assert outcome(tmp_path, [telemetry], **SAVES) == unobserved_with_checkpoints


@pytest.mark.slow
def test_a_queue_that_is_full(
    unobserved: Outcome,
    stuck: Callable[[type, str], None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(pipeline, "Background", partial(Background, 4))
    stuck(Detector, "observe")
    telemetry = TelemetryCallback(metrics_port="off", journal="off", linger_s=0)
    assert outcome(tmp_path, [telemetry]) == unobserved
    assert telemetry.run is not None
    assert telemetry.run.view().telemetry.dropped["background"] >= STEPS - 4, "what is lost is counted"


def test_no_memory_for_a_step(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    submit = Background.submit

    def no_memory(self: Background, function: Any, *arguments: Any) -> bool:
        if getattr(function, "__func__", None) is StepObserver.step:
            raise MemoryError
        return submit(self, function, *arguments)

    monkeypatch.setattr(Background, "submit", no_memory)
    telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal")
    assert outcome(tmp_path, [telemetry]) == unobserved
    assert once_per_fault(caplog) == {"handling on_step_end": 1}
    assert faults.counts()["callback"] == STEPS
