"""A source or an exporter that raises loses its own values; the step, the other exporters and training go on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from observing import ScrapeEachStep, journal, once_per_fault
from otlp_receiver import http_receiver
from outcomes import STEPS, Outcome, outcome
from tiny import build_trainer, variety

from rlhf_otel import ConfigurationError, TelemetryCallback, assembly, faults, step_recorder
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.traces import TraceExporter
from rlhf_otel.sources.system import SystemSampler


def broken(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("broken on purpose")


SOURCES: dict[str, tuple[Any, str, str, str]] = {
    "groups": (step_recorder, "last_generation", "reading groups", "rlhf_zero_advantage_groups_ratio"),
    "system": (SystemSampler, "signals", "reading system signals", ""),
    "phases": (assembly, "nest", "nesting a step's phases", ""),
    "derived": (assembly, "add_derived", "deriving signals", ""),
}
"""What is broken, how the fault is called, and the family that is lost with it."""


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_raises_loses_only_its_own_values(
    source: str,
    unobserved: Outcome,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    owner, name, doing, lost = SOURCES[source]
    monkeypatch.setattr(owner, name, broken)
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    assert outcome(tmp_path, [telemetry, scraping]) == unobserved

    assert list(scraping.scrapes) == list(range(1, STEPS + 1))
    last = scraping.scrapes[STEPS]
    assert last("rlhf_reward_mean") > 0
    assert last("rlhf_grad_norm") > 0
    assert not lost or last.get(lost) is None
    assert len(journal(tmp_path / "journal", "step")) == STEPS
    assert once_per_fault(caplog) == {doing: 1}
    assert faults.total() >= STEPS, "counted each time"


def test_a_step_that_cannot_be_read_at_all_is_still_progress(
    unobserved: Outcome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(assembly.Assembler, "assemble", broken)
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    assert outcome(tmp_path, [telemetry, scraping]) == unobserved

    assert scraping.scrapes[STEPS]("rlhf_step") == STEPS
    assert [record["step"] for record in journal(tmp_path / "journal", "step")] == list(range(1, STEPS + 1))
    assert once_per_fault(caplog) == {"reading a step's parts": 1}


def nan_at_step_three(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
    scores = variety(completions)
    return [float("nan"), *scores[1:]] if trainer_state.global_step == 2 else scores


def test_a_journal_that_raises_costs_neither_spans_nor_warnings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(JournalWriter, "write", broken)
    with http_receiver() as receiver, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        scraping = ScrapeEachStep()
        telemetry = TelemetryCallback(metrics_port=0, trace_one_in=1)
        build_trainer(
            tmp_path, [telemetry, scraping], reward_funcs=[nan_at_step_three], max_steps=STEPS
        ).train()
    steps = {row.attributes["rl.train.step"] for row in receiver.spans if row.span.name == "rlhf.step"}
    assert steps == set(range(1, STEPS + 1))
    said = [record.getMessage() for record in caplog.records]
    assert sum("NonFinite (critical) at step 3" in text for text in said) == 1
    assert scraping.scrapes[STEPS]("rlhf_anomaly_total", rule="NonFinite") == 1
    assert once_per_fault(caplog)["writing a record to the journal"] == 1


def test_an_exporter_of_spans_that_raises_costs_neither_journal_nor_warnings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(TraceExporter, "export", broken)
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal", trace_one_in=1)
        build_trainer(tmp_path, [telemetry], reward_funcs=[nan_at_step_three], max_steps=STEPS).train()
    assert len(journal(tmp_path / "journal", "step")) == STEPS
    assert [record["rule"] for record in journal(tmp_path / "journal", "anomaly")] == ["NonFinite"]
    assert any("NonFinite (critical) at step 3" in record.getMessage() for record in caplog.records)
    assert once_per_fault(caplog) == {"choosing and building the spans of a step": 1}


def test_a_bad_variable_for_traces_is_refused_by_the_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    TelemetryCallback()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigurationError) as refused:
        TelemetryCallback()
    for part in ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf, grpc"):
        assert part in str(refused.value)


def test_a_variable_that_has_no_effect_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    TelemetryCallback()
