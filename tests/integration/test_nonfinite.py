"""NaN is caught on the step where it happens, though the trainer logs every 50 steps and hides it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from observing import ScrapeEachStep, fetch, journal
from tiny import build_trainer, numbers, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback

STEP = 5


def due(trainer: Any) -> bool:
    return bool(trainer.state.global_step == STEP - 1)


def break_reward(trainer: Any, value: float) -> None:
    """One reward of one function; TRL leaves NaN out of the sum."""
    function = trainer.reward_funcs[0]

    def broken(completions: list[str], **kwargs: Any) -> Any:
        scores = function(completions, **kwargs)
        return [value, *scores[1:]] if due(trainer) else scores

    trainer.reward_funcs[0] = broken


def break_gradient(trainer: Any, value: float) -> None:
    weights = next(iter(trainer.model.parameters()))
    weights.register_hook(lambda gradient: gradient * value if due(trainer) else gradient)


def break_loss(trainer: Any, value: float) -> None:
    """The value of the loss, and not its gradient: logged as 0."""
    compute = trainer.compute_loss

    def broken(*args: Any, **kwargs: Any) -> Any:
        loss = compute(*args, **kwargs)
        return loss + value if due(trainer) else loss

    trainer.compute_loss = broken


class Health(TrainerCallback):
    """Asks /healthz after every step."""

    def __init__(self) -> None:
        self.answers: dict[int, tuple[int, str]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.answers[state.global_step] = fetch("/healthz")


BREAKS: dict[str, tuple[str, Callable[[Any, float], None], float]] = {
    "NaN reward": ("reward", break_reward, math.nan),
    "infinite reward": ("reward", break_reward, math.inf),
    "NaN gradient": ("grad_norm", break_gradient, math.nan),
    "infinite gradient": ("grad_norm", break_gradient, math.inf),
    "NaN loss": ("loss", break_loss, math.nan),
    "infinite loss": ("loss", break_loss, -math.inf),
}


@pytest.mark.parametrize("case", BREAKS)
def test_caught_at_the_very_step(case: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    signal, break_it, value = BREAKS[case]
    scraping, health = ScrapeEachStep(), Health()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    trainer = build_trainer(
        tmp_path, [telemetry, scraping, health], reward_funcs=[variety, numbers], max_steps=STEP + 1
    )
    break_it(trainer, value)
    with contextlib.suppress(RuntimeError, ValueError):  # weights of NaN cannot generate
        trainer.train()

    before, at = scraping.scrapes[STEP - 1], scraping.scrapes[STEP]
    assert before("rlhf_signal_nonfinite_total", signal=signal) == 0
    assert before("rlhf_anomaly_total", rule="NonFinite") == 0
    assert at("rlhf_signal_nonfinite_total", signal=signal) >= 1, "the function's, and the mean's if infinite"
    assert at("rlhf_anomaly_active", rule="NonFinite") == 1
    assert at("rlhf_anomaly_first_step", rule="NonFinite") == STEP
    assert (health.answers[STEP - 1][0], health.answers[STEP][0]) == (200, 503)
    assert f"non-finite {signal} at step {STEP}" in health.answers[STEP][1]
    anomaly = journal(tmp_path / "journal", "anomaly")[0]
    assert (anomaly["rule"], anomaly["signal"]) == ("NonFinite", signal)
    assert (anomaly["first_step"], anomaly["step"]) == (STEP, STEP)
    sentences = [record.getMessage() for record in caplog.records if "NonFinite" in record.getMessage()]
    assert len(sentences) == 1
    assert f"at step {STEP}" in sentences[0]
    assert (signal == "reward") == ("variety" in sentences[0])


@pytest.mark.usefixtures("strict")
def test_none_of_it_in_a_healthy_run(tmp_path: Path) -> None:
    """The same without a fault; and None, which means "does not apply", is no NaN."""
    scraping = ScrapeEachStep()

    def undecided(completions: list[str], **_: Any) -> list[float | None]:
        return [None, *numbers(completions)[1:]]

    build_trainer(
        tmp_path,
        [TelemetryCallback(metrics_port=0, journal=tmp_path / "journal"), scraping],
        reward_funcs=[variety, undecided],
        max_steps=STEP + 1,
    ).train()
    last = scraping.scrapes[STEP + 1]
    assert set(last.by("signal", "rlhf_signal_nonfinite_total").values()) == {0}
    assert last("rlhf_anomaly_total", rule="NonFinite") == 0
