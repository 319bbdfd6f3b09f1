"""Phases of a real GRPO run: they nest, add up to its time, and keep evaluations and checkpoints apart from steps."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from observing import ScrapeEachStep, journal, scrape
from tiny import build_trainer, numbers, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback
from rlhf_otel.catalogue.spans import PHASE_BY_NAME

STEPS = 30


@pytest.mark.usefixtures("strict")
def test_phases_add_up_to_the_wall_time(tmp_path: Path) -> None:
    readings: list[tuple[float, Any, float]] = []

    class Scraping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            readings.append((time.time(), scrape(), time.time()))

    build_trainer(
        tmp_path,
        [TelemetryCallback(metrics_port=0), Scraping()],
        max_steps=STEPS,
        eval_prompts=2,
        eval_strategy="steps",
        eval_steps=10,
        per_device_eval_batch_size=4,
    ).train()

    assert len(readings) == STEPS
    for before, found, after in readings[5:]:
        total = sum(found.by("phase", "rlhf_phase_seconds_total").values())
        started = found("rlhf_process_start_time_seconds")
        assert (before - started) * 0.99 <= total <= (after - started) * 1.01
        (open_phase,) = found.samples["rlhf_open_phase_seconds"]
        assert open_phase[0]["phase"] in PHASE_BY_NAME
        assert 0 <= open_phase[1] <= after - started


@pytest.mark.usefixtures("strict")
def test_counters_never_go_back(tmp_path: Path) -> None:
    """Prometheus takes a counter that falls for a restart and adds all of it again."""
    telemetry = TelemetryCallback(metrics_port="off", journal="off")
    trainer = build_trainer(tmp_path, [telemetry])
    went_back: list[tuple[str, float, float]] = []
    looks = 0
    done = threading.Event()

    def look() -> None:
        nonlocal looks
        latest: dict[str, float] = {}
        while not done.is_set():
            if telemetry.run is None:
                continue
            looks += 1
            for phase, seconds in telemetry.run.view().phase_seconds.items():
                if seconds < latest.get(phase, 0.0):
                    went_back.append((phase, latest[phase], seconds))
                latest[phase] = seconds

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # as many switches in a second as else in minutes
    thread = threading.Thread(target=look)
    thread.start()
    try:
        trainer.train()
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert looks > 1000
    assert went_back == []
    assert telemetry.run is not None
    view = telemetry.run.view()
    assert view.end is not None
    wall = view.end.time_ns / 1e9 - view.snapshot.started_s
    assert sum(view.phase_seconds.values()) == pytest.approx(wall, rel=0.01)


ENCLOSING = {
    "data": {"other"},
    "rollout": {"", "evaluation"},
    "generate": {"rollout"},
    "reference_logprobs": {"rollout"},
    "policy_logprobs": {"rollout"},
    "reward": {"rollout"},
    "reward_function": {"reward"},
    "loss": {"", "evaluation"},
    "forward": {"loss"},
    "backward": {""},
    "optimizer": {""},
    "evaluation": {""},
    "checkpoint": {""},
    "other": {"", "rollout", "loss", "evaluation"},
}
"""Phase to the phases that it may lie in; "" is the step itself."""


@pytest.mark.usefixtures("strict")
def test_phases_nest_evaluation_stays_apart_and_checkpoints_count(tmp_path: Path) -> None:
    scraping = ScrapeEachStep()

    def much_in_evaluation(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        score = 0.0 if trainer.model.training else 1000.0
        return [score + value for value in variety(completions)]

    trainer = build_trainer(
        tmp_path,
        [TelemetryCallback(metrics_port=0, journal=tmp_path / "journal"), scraping],
        reward_funcs=[much_in_evaluation, numbers],
        max_steps=12,
        num_iterations=2,
        gradient_accumulation_steps=2,
        steps_per_generation=2,
        eval_prompts=2,
        eval_strategy="steps",
        eval_steps=4,
        per_device_eval_batch_size=4,
        save_strategy="steps",
        save_steps=6,
        save_total_limit=1,
    )
    trainer.train()

    steps = journal(tmp_path / "journal", "step")
    for record in steps:
        check_nesting(record)
    seen = {row[0] for record in steps for row in record["phases"]}
    assert seen >= {
        "data", "generate", "rollout", "reference_logprobs", "policy_logprobs", "reward", "reward_function",
        "loss", "forward", "backward", "optimizer", "evaluation", "checkpoint",
    }  # fmt: skip
    with_phase = {
        name: [record["step"] for record in steps if any(row[0] == name for row in record["phases"])]
        for name in ("evaluation", "checkpoint")
    }
    # They lie between two steps of the trainer, so that they belong to the next. After the last there is none.
    assert with_phase == {"evaluation": [5, 9], "checkpoint": [7]}

    last = scraping.scrapes[12]
    assert all(found("rlhf_reward_mean") < 10 for found in scraping.scrapes.values())
    assert last("rlhf_signal_average", signal="entropy") < 10
    assert last("rlhf_evaluation_signal", signal="reward") > 500
    assert last("rlhf_evaluations_total") == 2
    assert last("rlhf_checkpoints_total") == 1
    assert last("rlhf_last_checkpoint_step") == 6
    assert abs(time.time() - last("rlhf_last_checkpoint_timestamp_seconds")) < 60
    evaluations = journal(tmp_path / "journal", "evaluation")
    assert [record["step"] for record in evaluations] == [4, 8, 12]
    logged = {row["step"]: row for row in trainer.state.log_history if "eval_reward" in row}
    for record in evaluations:
        assert record["values"]["reward"] == pytest.approx(logged[record["step"]]["eval_reward"])
    checkpoints = journal(tmp_path / "journal", "checkpoint")
    assert [(record["step"], record["path"]) for record in checkpoints] == [
        (step, str(tmp_path / "out" / f"checkpoint-{step}")) for step in (6, 12)
    ]
    assert Path(checkpoints[-1]["path"]).is_dir()


def check_nesting(record: dict[str, Any]) -> None:
    """Each phase lies in one that may enclose it, and within its time."""
    rows = record["phases"]
    for index, (phase, _, start, duration, parent) in enumerate(rows):
        enclosing = rows[parent][0] if parent >= 0 else ""
        assert parent < index
        assert enclosing in ENCLOSING[phase], f"step {record['step']}: {phase} in {enclosing or 'the step'}"
        begin, end = (rows[parent][2], sum(rows[parent][2:4])) if parent >= 0 else (0, record["duration_ms"])
        assert begin - 0.01 <= start
        assert start + duration <= end + 0.01
