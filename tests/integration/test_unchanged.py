"""Training is the same to the last bit, observed or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from observing import Prometheus, journal
from otlp_receiver import http_receiver
from outcomes import STEPS, Outcome, outcome

from rlhf_otel import TelemetryCallback

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation and reuse": {
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "num_iterations": 2,
        "logging_steps": 3,
    },
    "evaluation and checkpoints": {
        "eval_prompts": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "per_device_eval_batch_size": 4,
        "save_strategy": "steps",
        "save_steps": 4,
    },
}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("case", CASES)
def test_observed_and_unobserved_runs_are_the_same(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unobserved = outcome(tmp_path / "unobserved", **CASES[case])
    again = outcome(tmp_path / "again", **CASES[case])
    assert again == unobserved, "else nothing could be said here"
    with http_receiver() as receiver, Prometheus():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        telemetry = TelemetryCallback(metrics_port=0, trace_one_in=1)
        observed = outcome(tmp_path / "observed", [telemetry], **CASES[case])
    assert observed == unobserved
    assert receiver.spans


def test_the_comparison_can_fail(tmp_path: Path) -> None:
    assert outcome(tmp_path / "one", max_steps=2) != outcome(tmp_path / "other", max_steps=2, seed=1)


def test_two_trainers_one_after_the_other(unobserved: Outcome, tmp_path: Path) -> None:
    """Also with one callback for both, and while the first one's end is still exposed."""
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    first = outcome(tmp_path / "first", [telemetry])
    second = outcome(tmp_path / "second", [telemetry])
    assert first == second == unobserved
    ends = journal(tmp_path / "journal", "end")
    assert [(end["outcome"], end["step"]) for end in ends] == [("finished", STEPS)] * 2
