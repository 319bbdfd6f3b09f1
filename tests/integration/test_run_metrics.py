"""The one line: what a real GRPO run shows at /metrics is what it logs, step by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from observing import ScrapeEachStep, journal
from tiny import COMPLETIONS, build_trainer, numbers, variety

from rlhf_otel import TelemetryCallback

STEPS = 30

FAMILY_OF_KEY = {
    "loss": "rlhf_loss",
    "grad_norm": "rlhf_grad_norm",
    "learning_rate": "rlhf_learning_rate",
    "num_tokens": "rlhf_tokens_total",
    "completions/mean_length": "rlhf_completion_length_mean_tokens",
    "completions/min_length": "rlhf_completion_length_min_tokens",
    "completions/max_length": "rlhf_completion_length_max_tokens",
    "completions/clipped_ratio": "rlhf_completions_truncated_ratio",
    "completions/mean_terminated_length": "rlhf_terminated_length_mean_tokens",
    "completions/min_terminated_length": "rlhf_terminated_length_min_tokens",
    "completions/max_terminated_length": "rlhf_terminated_length_max_tokens",
    "reward": "rlhf_reward_mean",
    "reward_std": "rlhf_reward_std",
    "frac_reward_zero_std": "rlhf_reward_zero_std_ratio",
    "kl": "rlhf_kl_per_token_nats",
    "entropy": "rlhf_entropy_nats",
    "policy_loss": "rlhf_policy_loss",
    "entropy_coef": "rlhf_entropy_coefficient",
    "clip_ratio/low_mean": "rlhf_clip_low_ratio",
    "clip_ratio/low_min": "rlhf_clip_low_min_ratio",
    "clip_ratio/high_mean": "rlhf_clip_high_ratio",
    "clip_ratio/high_max": "rlhf_clip_high_max_ratio",
    "clip_ratio/region_mean": "rlhf_clip_region_ratio",
    "epoch": "rlhf_epoch",
}
"""Written by hand, not taken from the catalogue: this is what the names mean."""

TIMES = {"step_time", "step"}
"""Different in each run, or checked otherwise."""


@pytest.fixture(scope="module")
def cases() -> dict[str, dict[str, Any]]:
    """Arguments of GRPOConfig for each way of scheduling generation."""
    return {
        "plain": {"max_steps": STEPS, "entropy_coef": 0.01},
        "accumulation": {
            "max_steps": 12,
            "per_device_train_batch_size": COMPLETIONS,
            "gradient_accumulation_steps": 2,
            "steps_per_generation": 4,
        },
        "iterations": {"max_steps": 12, "num_iterations": 2},
    }


def history(folder: Path, **arguments: Any) -> dict[int, dict[str, float]]:
    """What TRL logs of every step of the same run, unobserved, with ``logging_steps=1``."""
    trainer = build_trainer(folder, logging_steps=1, **arguments)
    trainer.train()
    return {row["step"]: row for row in trainer.state.log_history if "loss" in row}


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("case", ["plain", "accumulation", "iterations"])
def test_every_step_shows_what_trl_would_have_logged(
    case: str, cases: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    logged = history(tmp_path, **cases[case])
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, run_id="r")

    build_trainer(tmp_path, [telemetry, scraping], logging_steps=50, **cases[case]).train()

    assert list(scraping.scrapes) == list(logged), "every step was scraped, and only those"
    for step, row in logged.items():
        compare(row, scraping.scrapes[step])
    assert {key for key in logged[1] if not key.startswith("rewards/")} - TIMES <= set(FAMILY_OF_KEY)


def compare(row: dict[str, float], found: Any) -> None:
    """Each key of a log row beside its sample."""
    for key, value in row.items():
        if key in TIMES:
            continue
        if key.startswith("rewards/"):
            _, function, what = key.split("/")
            shown = found(f"rlhf_reward_function_{what}", reward_function=function)
        else:
            shown = found(FAMILY_OF_KEY[key])
        assert shown == pytest.approx(value, rel=1e-5, abs=1e-7), f"step {row['step']}: {key}"


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("plain", ["generate"] * STEPS),
        ("accumulation", ["generate", "reuse"] * 6),
        ("iterations", ["generate", "reuse"] * 6),
    ],
)
def test_kinds_durations_and_counts(
    case: str, kinds: list[str], cases: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")

    build_trainer(tmp_path, [telemetry, scraping], **cases[case]).train()

    last = scraping.scrapes[len(kinds)]
    for kind in set(kinds):
        assert last("rlhf_steps_total", kind=kind) == kinds.count(kind)
        assert last("rlhf_step_duration_seconds_count", kind=kind) == kinds.count(kind)
        assert last("rlhf_step_duration_seconds_bucket", kind=kind, le="+Inf") == kinds.count(kind)
    steps = journal(tmp_path / "journal", "step")
    assert [record["kind"] for record in steps] == kinds
    total = sum(last.by("kind", "rlhf_step_duration_seconds_sum").values())
    assert total == pytest.approx(sum(record["duration_ms"] for record in steps) / 1e3, rel=1e-3)
    assert last("rlhf_steps_planned") == len(kinds)


@pytest.mark.usefixtures("strict")
def test_a_reuse_step_keeps_the_values_of_its_generation(tmp_path: Path) -> None:
    """A gauge must not vanish between two generations, or every second scrape has holes."""
    scraping = ScrapeEachStep()
    build_trainer(
        tmp_path, [TelemetryCallback(metrics_port=0), scraping], max_steps=4, num_iterations=2
    ).train()
    for generate, reuse in ((1, 2), (3, 4)):
        before, after = scraping.scrapes[generate], scraping.scrapes[reuse]
        assert after("rlhf_reward_mean") == before("rlhf_reward_mean")
        assert after("rlhf_zero_advantage_groups_ratio") == before("rlhf_zero_advantage_groups_ratio")
        assert after("rlhf_tokens_total") == before("rlhf_tokens_total")
    assert scraping.scrapes[3]("rlhf_tokens_total") > scraping.scrapes[1]("rlhf_tokens_total") > 0


def one_dead_group(completions: list[str], **_: Any) -> list[float]:
    """Of the two groups, the first gets one reward for all, the second differs."""
    return [0.5] * 4 + [0.0, 0.0, 1.0, 1.0][: len(completions) - 4]


def constant(completions: list[str], **_: Any) -> list[float]:
    """The same for everybody."""
    return [0.7] * len(completions)


def undecided(completions: list[str], **_: Any) -> list[float | None]:
    """Scores one completion of each group: nobody to compare it with, so no advantage."""
    return [1.0 if index % 4 == 0 else None for index in range(len(completions))]


def cancelling(completions: list[str], **_: Any) -> list[float]:
    """Takes back what ``variety`` gives, so that the sum is constant though each function varies."""
    return [-value for value in variety(completions)]


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
@pytest.mark.parametrize(
    ("functions", "dead"),
    [((constant,), 1.0), ((one_dead_group,), 0.5), ((undecided,), 1.0), ((variety, cancelling), 1.0)],
    ids=["constant", "half", "undecided", "cancelling"],
)
def test_groups_without_advantage(
    functions: tuple[Any, ...], dead: float, scale_rewards: str, tmp_path: Path
) -> None:
    scraping = ScrapeEachStep()
    trainer = build_trainer(
        tmp_path,
        [TelemetryCallback(metrics_port=0), scraping],
        reward_funcs=functions,
        scale_rewards=scale_rewards,
        max_steps=2,
    )
    trainer.train()
    assert [found("rlhf_zero_advantage_groups_ratio") for found in scraping.scrapes.values()] == [dead, dead]


@pytest.mark.usefixtures("strict")
def test_async_reward_functions_are_timed_and_counted(tmp_path: Path) -> None:
    import asyncio

    async def patient(completions: list[str], **_: Any) -> list[float | None]:
        await asyncio.sleep(0.01)
        return [*variety(completions)[:-1], None]

    async def brisk(completions: list[str], **_: Any) -> list[float]:
        await asyncio.sleep(0.005)
        return numbers(completions)

    scraping = ScrapeEachStep()
    build_trainer(
        tmp_path,
        [TelemetryCallback(metrics_port=0, journal=tmp_path / "journal"), scraping],
        reward_funcs=[patient, brisk],
        max_steps=3,
    ).train()

    last = scraping.scrapes[3]
    assert last("rlhf_reward_function_none_total", reward_function="patient") == 3
    assert last.get("rlhf_reward_function_none_total", reward_function="brisk") is None
    assert last("rlhf_signal_nonfinite_total", signal="reward") == 0
    assert last("rlhf_reward_function_seconds_total", reward_function="patient") >= 0.03
    assert last("rlhf_reward_function_seconds_total", reward_function="brisk") >= 0.015
    for record in journal(tmp_path / "journal", "step"):
        functions = [row for row in record["phases"] if row[0] == "reward_function"]
        assert sorted(row[1] for row in functions) == ["brisk", "patient"]
        assert all(record["phases"][row[4]][0] == "reward" for row in functions)


@pytest.mark.usefixtures("strict")
def test_user_metrics_pass_through(tmp_path: Path) -> None:
    def logs_more(completions: list[str], log_metric: Any, trainer_state: Any, **_: Any) -> list[float]:
        log_metric("my/score", 2.0 * trainer_state.global_step)
        return variety(completions)

    scraping = ScrapeEachStep()
    build_trainer(
        tmp_path, [TelemetryCallback(metrics_port=0), scraping], reward_funcs=[logs_more], max_steps=3
    ).train()
    shown = [found("rlhf_trainer_metric", key="my/score") for found in scraping.scrapes.values()]
    assert shown == [0.0, 2.0, 4.0]


@pytest.mark.usefixtures("strict")
def test_without_a_reference_model_there_is_no_kl(tmp_path: Path) -> None:
    """``beta=0`` is TRL's default. Absent is not zero."""
    scraping = ScrapeEachStep()
    build_trainer(tmp_path, [TelemetryCallback(metrics_port=0), scraping], beta=0.0, max_steps=2).train()
    last = scraping.scrapes[2]
    assert last.get("rlhf_kl_per_token_nats") is None
    assert math.isfinite(last("rlhf_loss"))
