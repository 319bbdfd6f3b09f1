"""Thousands of reward functions: their series are capped, and training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from observing import ScrapeEachStep, journal
from otlp_receiver import http_receiver
from tiny import build_trainer, variety

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.catalogue.metrics import MAX_REWARD_FUNCTIONS

FUNCTIONS = 2000
STEPS = 3


def reward_function(number: int) -> Any:
    def reward(completions: list[str], **_: Any) -> list[float]:
        return [score * number / FUNCTIONS for score in variety(completions)]

    reward.__name__ = f"reward_{number}"
    return reward


def weights_after(folder: Path, *callbacks: Any) -> dict[str, bytes]:
    functions = [reward_function(number) for number in range(FUNCTIONS)]
    trainer = build_trainer(folder, callbacks, reward_funcs=functions, max_steps=STEPS, logging_steps=1)
    trainer.train()
    return {name: weights.numpy().tobytes() for name, weights in trainer.model.state_dict().items()}


@pytest.mark.slow
def test_thousands_of_reward_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unobserved = weights_after(tmp_path / "unobserved")
    scraping = ScrapeEachStep()
    with http_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.endpoint)
        telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal", trace_one_in=1)
        observed = weights_after(tmp_path / "observed", telemetry, scraping)
    assert observed == unobserved
    last = scraping.scrapes[STEPS]
    assert len(last.by("reward_function", "rlhf_reward_function_mean")) <= MAX_REWARD_FUNCTIONS
    assert last("rlhf_dropped_series_total", label="reward_function") >= FUNCTIONS - MAX_REWARD_FUNCTIONS
    assert len(journal(tmp_path / "journal", "step")) == STEPS
    assert receiver.spans
    assert faults.total() == 0
