"""What spans say of a step: attributes, events and status."""

from __future__ import annotations

import dataclasses
import math

import pytest
from made_steps import GRPO_STEP, IDENTITY, UNIX_END, anomaly, build, phase, step
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.trace import StatusCode

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.exporters import span_tree
from rlhf_otel.exporters.span_tree import resource_attributes
from rlhf_otel.records import DeviceTimes, RunIdentity

# --- attributes --------------------------------------------------------------------------------------------


def test_step_attributes() -> None:
    span = build(step([], {"loss": 0.25, "kl_per_token": 0.01, "reward": 1.5, "entropy": 3.0}))[0]
    assert dict(span.attributes) == {
        "rl.train.step": 42,
        "rlhf.step.kind": "generate",
        "rlhf.rank": 0,
        "rlhf.trace.kept_because": "slow",
        "rl.train.loss": 0.25,
        "rl.train.kl": 0.01,
        "rl.reward.mean": 1.5,
    }
    assert span.instrumentation_scope.name == "rlhf_otel"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_and_the_rest_stays(bad: float) -> None:
    span = build(step([], {"loss": bad, "reward": 1.5}), anomalies=(anomaly(value=bad),))[0]
    assert "rl.train.loss" not in span.attributes
    assert span.attributes["rl.reward.mean"] == 1.5
    assert "rlhf.anomaly.value" not in span.events[0].attributes
    assert span.events[0].attributes["rlhf.anomaly.baseline"] == 0.5


def test_phase_attributes() -> None:
    spans = {span.name: dict(span.attributes) for span in build(step(GRPO_STEP))}
    assert spans["rlhf.rollout"] == {"rlhf.phase": "rollout", "rlhf.phase.scope": "collective"}
    assert spans["rlhf.generate"] == {
        "rlhf.phase": "generate",
        "rlhf.phase.scope": "local",
        "rlhf.phase.detail": "vLLM.generate",
    }
    assert spans["rlhf.reward_function"]["rl.reward.function"] == "length_reward"


def test_the_scope_of_a_phase_is_that_of_its_run() -> None:
    server = dataclasses.replace(IDENTITY, collective_phases=("generate",))
    spans = {span.name: span.attributes for span in build(step(GRPO_STEP), identity=server)}
    assert spans["rlhf.generate"]["rlhf.phase.scope"] == "collective"
    assert spans["rlhf.reward_function"]["rlhf.phase.scope"] == "local"


def test_a_phase_that_the_catalogue_does_not_know_has_no_scope() -> None:
    assert dict(build(step([phase("mystery", 0, 1)]))[1].attributes) == {"rlhf.phase": "mystery"}


@pytest.mark.parametrize("detail", ["lone \udcff surrogate", "x" * 100_000, "奖励函数", "nul \0"])
def test_any_reward_function_name_can_be_sent(detail: str, caplog: pytest.LogCaptureFixture) -> None:
    spans = build(step([phase("reward_function", 0, 1, detail=detail)]))
    encoded = encode_spans(spans).SerializeToString()
    assert len(encoded) < 4_000
    assert b"rl.reward.function" in encoded
    assert not caplog.records


def test_device_times_are_on_the_phases_that_have_them() -> None:
    record = step([phase("loss", 0, 500), phase("backward", 500, 600), phase("backward", 700, 800)])
    record.device = DeviceTimes()
    assert not any("rlhf.phase.device_seconds" in span.attributes for span in build(record))
    record.device.seconds = {("loss", "", 0): 0.5, ("backward", "", 700): 0.25}
    found = [span.attributes.get("rlhf.phase.device_seconds") for span in build(record)]
    assert found == [None, 0.5, None, 0.25]


def test_tokens_are_told_where_they_are_known() -> None:
    record = step([])
    assert "rl.sample.tokens" not in build(record)[0].attributes
    record.tokens = 5760.0
    assert build(record)[0].attributes["rl.sample.tokens"] == 5760.0


def test_resource_attributes_leave_out_what_is_not_known() -> None:
    identity = RunIdentity("run-7", rank=1, world_size=2, algorithm="grpo")
    assert resource_attributes(identity) == {
        "rl.system": "trl",
        "rl.run.id": "run-7",
        "rl.algorithm": "grpo",
        "rlhf.rank": 1,
        "rlhf.world_size": 2,
        "rlhf.attempt": 1,
    }


def test_what_the_step_shows_are_signals_of_the_catalogue() -> None:
    from rlhf_otel.catalogue.signals import SIGNALS

    assert set(span_tree.STEP_ATTRIBUTES.values()) <= {signal.name for signal in SIGNALS}


# --- events and status -------------------------------------------------------------------------------------


def test_what_is_done_about_an_anomaly_is_an_attribute_of_its_event() -> None:
    answered = dataclasses.replace(anomaly(), actions=("webhook", "stop"))
    span = build(step(GRPO_STEP), anomalies=(answered,))[0]
    assert span.events[0].attributes["rlhf.anomaly.actions"] == ("webhook", "stop")
    assert encode_spans([span]), "a collector gets it as an array"


def test_anomalies_are_events_of_the_step() -> None:
    span = build(step(GRPO_STEP), anomalies=(anomaly(),))[0]
    (event,) = span.events
    assert (event.name, event.timestamp) == ("rlhf.anomaly", UNIX_END - 5)
    assert dict(event.attributes) == {
        "rlhf.anomaly.rule": "NonFinite",
        "rlhf.anomaly.severity": "critical",
        "rlhf.anomaly.signal": "loss",
        "rlhf.anomaly.value": 3.0,
        "rlhf.anomaly.baseline": 0.5,
    }


def test_a_critical_anomaly_makes_the_step_an_error() -> None:
    status = build(step([]), anomalies=(anomaly(),))[0].status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "NonFinite")


def test_a_warning_does_not_make_the_step_an_error() -> None:
    assert build(step([]), anomalies=(anomaly(Severity.WARNING),))[0].status.status_code is StatusCode.UNSET


def test_a_failed_phase_is_an_error_and_so_is_its_step() -> None:
    phases = [
        phase("reward", 0, 9, failed=True),
        phase("reward_function", 1, 8, 0, "broken", True),
        phase("data", 0, 0),
    ]
    statuses = {span.name: span.status for span in build(step(phases))}
    assert statuses["rlhf.step"].description == "reward raised; reward_function raised"
    codes = {name: status.status_code for name, status in statuses.items()}
    error, unset = StatusCode.ERROR, StatusCode.UNSET
    assert codes == {
        "rlhf.step": error, "rlhf.reward": error, "rlhf.reward_function": error, "rlhf.data": unset,
    }  # fmt: skip


def test_a_step_that_raised_outside_every_phase_is_an_error() -> None:
    assert build(step([]), kept_because="failed")[0].status.status_code is StatusCode.ERROR
