"""Traces of a real run, as they arrive behind a real collector: content, parents, times, anomalies."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from observing import journal
from otlp_receiver import (
    Received,
    Receiver,
    attributes_of,
    grpc_receiver,
    http_receiver,
    rotel,
    rotel_program,
)
from tiny import build_trainer, numbers, variety

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters.span_tree import run_trace_id, trace_id

STEPS = 8
NAN_AT = 5
PATIENCE_S = 0.03
ERROR = 2
"""OpenTelemetry's status code."""

KEPT = {1: "first", 2: "before_anomaly", 3: "one_in_k", 4: "before_anomaly", 5: "anomaly", 6: "one_in_k"}
"""One in three, and the three before the anomaly."""


def patient(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
    time.sleep(PATIENCE_S)
    scores = variety(completions)
    return [float("nan"), *scores[1:]] if trainer_state.global_step == NAN_AT - 1 else scores


def steps_of(receiver: Receiver) -> dict[int, Received]:
    found = [got for got in receiver.spans if got.span.name == "rlhf.step"]
    return {got.attributes["rl.train.step"]: got for got in found}


@pytest.mark.servers
@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_run_through_a_collector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protocol: str) -> None:
    program = rotel_program()
    if program is None:
        pytest.skip("the rotel wheel is not installed (pip install rotel==0.0.1a15)")
    behind = grpc_receiver() if protocol == "grpc" else http_receiver()
    with behind as receiver, rotel(program, receiver, protocol.split("/")[0], tmp_path) as collector:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", collector.grpc if protocol == "grpc" else collector.http
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        telemetry = TelemetryCallback(
            run_id=tmp_path.name, metrics_port="off", journal=tmp_path / "journal", trace_one_in=3
        )
        began = time.time_ns()
        build_trainer(tmp_path, [telemetry], reward_funcs=[patient, numbers], max_steps=STEPS).train()
        ended = time.time_ns()
        assert telemetry.run is not None
        counts = telemetry.run.view().telemetry
        receiver.wait_for(counts.spans_exported, 60)
    assert counts.dropped["traces"] == 0
    assert {reason: count for reason, count in counts.kept_steps.items() if count} == Counter(KEPT.values())
    assert len(receiver.spans) == counts.spans_exported

    steps = steps_of(receiver)
    assert {step: got.attributes["rlhf.trace.kept_because"] for step, got in steps.items()} == KEPT
    records = {record["step"]: record for record in journal(tmp_path / "journal", "step")}
    for step, got in steps.items():
        check_step(tmp_path.name, got, step, records[step])
        check_phases(got, receiver, records[step])
        assert began <= got.span.start_time_unix_nano < got.span.end_time_unix_nano <= ended
    check_run(tmp_path.name, receiver, steps)
    check_anomaly(steps)


def check_step(run_id: str, got: Received, step: int, record: dict[str, Any]) -> None:
    """A root span with the journal's times and values."""
    span = got.span
    assert span.trace_id == trace_id(run_id, 1, step).to_bytes(16, "big")
    assert span.parent_span_id == b""
    assert span.end_time_unix_nano / 1e9 == pytest.approx(record["time"], abs=2e-6)
    assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(
        record["duration_ms"], abs=2e-3
    )
    assert got.attributes["rlhf.step.kind"] == record["kind"]
    assert got.attributes["rl.reward.mean"] == record["values"]["reward"]
    assert got.attributes["rl.train.loss"] == record["values"]["loss"]
    assert (got.resource["rl.run.id"], got.resource["rl.algorithm"]) == (run_id, "grpo")
    assert got.scope == "rlhf_otel"


def check_phases(step: Received, receiver: Receiver, record: dict[str, Any]) -> None:
    """The journal's phases, each in its parent, at its time."""
    inside = [got for got in receiver.spans if got.span.trace_id == step.span.trace_id]
    by_id = {got.span.span_id: got for got in inside}
    assert len(by_id) == len(inside) == 1 + len(record["phases"])
    phases = sorted(
        (got for got in inside if got is not step), key=lambda got: int(got.span.start_time_unix_nano)
    )
    found: list[tuple[str, str, str]] = []
    for got, row in zip(phases, record["phases"], strict=True):
        parent = by_id[got.span.parent_span_id]
        assert parent.span.start_time_unix_nano <= got.span.start_time_unix_nano
        assert got.span.end_time_unix_nano <= parent.span.end_time_unix_nano
        start_ms = (got.span.start_time_unix_nano - step.span.start_time_unix_nano) / 1e6
        assert start_ms == pytest.approx(row[2], abs=2e-3)
        detail = got.attributes.get("rlhf.phase.detail", "")
        found.append((got.span.name, detail, parent.span.name))
        if detail == "patient":
            assert got.attributes["rl.reward.function"] == "patient"
            assert got.span.end_time_unix_nano - got.span.start_time_unix_nano >= PATIENCE_S * 1e9
    assert found == expected_phases(record)


def expected_phases(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, detail and parent's name, from the journal."""
    expected: list[tuple[str, str, str]] = []
    for phase, detail, _, _, parent, *_ in record["phases"]:
        above = f"rlhf.{record['phases'][parent][0]}" if parent >= 0 else "rlhf.step"
        expected.append((f"rlhf.{phase}", detail, above))
    assert {name for name, *_ in expected} >= {"rlhf.generate", "rlhf.reward_function", "rlhf.backward"}
    return expected


def check_run(run_id: str, receiver: Receiver, steps: dict[int, Received]) -> None:
    """One span marks the run; every step links to it."""
    (run,) = [got for got in receiver.spans if got.span.name == "rlhf.run"]
    assert run.span.trace_id == run_trace_id(run_id, 1).to_bytes(16, "big")
    assert run.span.end_time_unix_nano == steps[1].span.start_time_unix_nano
    assert {got.span.links[0].span_id for got in steps.values()} == {run.span.span_id}


def check_anomaly(steps: dict[int, Received]) -> None:
    """On the step where it happened and on no other."""
    assert {step: len(got.span.events) for step, got in steps.items()} == {
        step: int(step == NAN_AT) for step in KEPT
    }
    span = steps[NAN_AT].span
    (event,) = span.events
    told = attributes_of(event.attributes)
    assert event.name == "rlhf.anomaly"
    assert (told["rlhf.anomaly.rule"], told["rlhf.anomaly.signal"]) == ("NonFinite", "reward")
    assert "rlhf.anomaly.value" not in told, "NaN is left out"
    assert span.start_time_unix_nano <= event.time_unix_nano <= span.end_time_unix_nano
    assert span.status.code == ERROR
    assert "NonFinite" in span.status.message
    assert all(got.span.status.code != ERROR for step, got in steps.items() if step != NAN_AT)


def test_the_step_in_which_training_raised_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == 3:
            raise ConnectionError("the reward service hung up")
        return variety(completions)

    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        trainer = build_trainer(
            tmp_path, [TelemetryCallback(metrics_port="off")], reward_funcs=[fails], max_steps=STEPS
        )
        with pytest.raises(ConnectionError):
            trainer.train()
    steps = steps_of(receiver)
    assert {step: got.attributes["rlhf.trace.kept_because"] for step, got in steps.items()} == {
        1: "first",
        2: "before_anomaly",
        3: "before_anomaly",
        4: "failed",
    }
    failed = [
        got.span.name
        for got in receiver.spans
        if got.span.trace_id == steps[4].span.trace_id and got.span.status.code == ERROR
    ]
    assert {"rlhf.step", "rlhf.reward_function"} <= set(failed)
    assert "rlhf.generate" not in failed
