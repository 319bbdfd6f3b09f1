"""A real GRPO run whose rewards are watched: metrics, rules, journal, and every rule from both sides."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tiny import build_trainer

from rlhf_otel import ConfigurationError, RewardModelMonitor, TelemetryCallback
from rlhf_otel.catalogue.metrics import MAX_REWARD_FUNCTIONS
from rlhf_otel.catalogue.rules_reward_models import REWARD_MODEL_RULES
from rlhf_otel.catalogue.signals import MONITORED
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import RunIdentity, RunView, StepRecord
from rlhf_otel.reward_model import monitor as monitoring
from rlhf_otel.reward_model.of_a_run import RunRewards
from rlhf_otel.settings import Settings

NAMES = {rule.name for rule in REWARD_MODEL_RULES}


def dice(completions: list[str], **_: Any) -> list[float]:
    """Another score each time."""
    return [random.random() for _ in completions]


def length(completions: list[str], **_: Any) -> list[float]:
    """Characters, and nothing else."""
    return [float(len(text)) for text in completions]


def words(completions: list[str], **_: Any) -> list[float]:
    """What is asked for: many different words, and no long ones."""
    return [len(set(text.split())) - 0.2 * max(map(len, text.split() or [""])) for text in completions]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny run is over before rewards would be judged a second time."""
    monkeypatch.setattr(monitoring, "SOONEST_S", 0.0)
    monkeypatch.setattr(monitoring, "REST", 0.0)


def samples(view: RunView) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(RunsCollector(lambda: [view]))
    text = generate_latest(registry).decode()
    return {
        (
            sample.name,
            *(value for key, value in sorted(sample.labels.items()) if key not in ("run_id", "rank")),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_real_run_shows_and_judges_what_its_monitor_finds_out(tmp_path: Path, often: None) -> None:
    monitor = RewardModelMonitor(rescore_every=1)
    callback = TelemetryCallback(reward_monitor=monitor, metrics_port="off", linger_s=0)
    functions = (monitor.wrap(dice), monitor.wrap(length), monitor.wrap(words))
    trainer = build_trainer(tmp_path, [callback], reward_funcs=functions, max_steps=20)
    trainer.train()
    assert callback.run is not None
    view = callback.run.view()

    found = samples(view)
    assert found["rlhf_reward_model_shortcut_correlation", "length", "length"] == pytest.approx(1.0)
    assert found["rlhf_reward_model_consistency_ratio", "dice"] < 0.75
    assert found["rlhf_reward_model_consistency_ratio", "length"] == 1.0
    assert found["rlhf_reward_model_calls_total", "words"] == 20
    assert found["rlhf_reward_model_none_ratio", "words"] == 0.0
    assert found["rlhf_reward_model_call_seconds_total", "words"] > 0
    assert -1 <= found["rlhf_reward_model_lowest_agreement", "words"] <= 1

    records = list(read_journal(tmp_path / "out" / "rlhf_otel"))
    fired = {one["rule"]: one["detail"] for one in records if one["type"] == "anomaly"}
    assert fired["RewardModelInconsistent"] == "of reward 'dice'"
    assert fired["RewardModelShortcut"] == "of reward 'length'"
    assert not fired.keys() & {"RewardModelTimeouts", "RewardModelInaccurate"}
    told = [one for one in records if one["type"] == "reward_model"][-1]
    assert told["rewards"].keys() == {"dice", "length", "words"}
    weak = {one["weakness"] for one in told["rewards"]["dice"]["recommendations"]}
    assert "inconsistent" in weak
    assert records[-1]["type"] == "end"
    assert view.snapshot.health.aspects["reward_model"] < 0.75


def test_a_run_without_a_monitor_has_none_of_it(tmp_path: Path) -> None:
    callback = TelemetryCallback(metrics_port="off", linger_s=0)
    build_trainer(tmp_path, [callback], reward_funcs=(words,), max_steps=2).train()
    assert callback.run is not None
    assert not [
        name for name, *labels in samples(callback.run.view()) if "reward_model" in (name + str(labels))
    ]


def test_what_is_no_monitor_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="RewardModelMonitor"):
        TelemetryCallback(reward_monitor="on")  # type: ignore[arg-type]  # as a user might


# Both sides of each rule


def batches(make: Any, count: int = 80) -> list[list[Any]]:
    return [[make(batch, number) for number in range(16)] for batch in range(count)]


RNG = random.Random(0)
STEADY = batches(lambda batch, number: RNG.gauss(0.0, 1.0))
TEXTS = [[f"word{RNG.random()} " * RNG.randrange(1, 20) for _ in range(16)] for _ in range(80)]


def steady(monitor: RewardModelMonitor) -> None:
    for scores, texts in zip(STEADY, TEXTS, strict=True):
        monitor.observe("reward", scores, texts)
        monitor.rescored("reward", scores[:8], [score + 0.01 for score in scores[:8]])
    monitor.set_reference("reward", [score for batch in STEADY[:64] for score in batch])
    monitor.calibrate("reward", [4.0] * 95 + [-1.0] * 5, [1.0] * 95 + [2.0] * 5)


def inconsistent(monitor: RewardModelMonitor) -> None:
    for first, second in zip(STEADY, reversed(STEADY), strict=True):
        monitor.rescored("reward", first, second)


def unstable(monitor: RewardModelMonitor) -> None:
    for number, scores in enumerate(STEADY):
        monitor.observe("reward", [score + 5 * (number // 16 % 2) for score in scores])


def drifted(monitor: RewardModelMonitor) -> None:
    for scores in STEADY:
        monitor.observe("reward", [score + 1.0 for score in scores])


def shortcut(monitor: RewardModelMonitor) -> None:
    for texts in TEXTS:
        monitor.observe("reward", [float(len(text)) for text in texts], texts)


def saturated(monitor: RewardModelMonitor) -> None:
    for _ in STEADY:
        monitor.observe("reward", [10.0] * 15 + [0.0])


def inaccurate(monitor: RewardModelMonitor) -> None:
    monitor.calibrate("reward", [1.0, 0.0] * 20, [0.0, 1.0] * 20)


def miscalibrated(monitor: RewardModelMonitor) -> None:
    monitor.calibrate("reward", [9.0] * 30 + [0.0] * 10, [0.0] * 30 + [9.0] * 10)


def timeouts(monitor: RewardModelMonitor) -> None:
    for _ in range(3):
        monitor.failed("reward", TimeoutError())


BREACHES = {
    "RewardModelInconsistent": inconsistent,
    "RewardModelUnstable": unstable,
    "RewardModelDrifted": drifted,
    "RewardModelShortcut": shortcut,
    "RewardModelSaturated": saturated,
    "RewardModelInaccurate": inaccurate,
    "RewardModelMiscalibrated": miscalibrated,
    "RewardModelTimeouts": timeouts,
}


def judged(monitor: RewardModelMonitor) -> set[str]:
    """The rules about watched rewards that fire at a step after what the monitor was told."""
    monitor.judge_all()
    pipeline = Pipeline(RunIdentity("r", algorithm="grpo"), Settings(journal="off"), None, monitored=True)
    record = StepRecord(1, 0.0, StepKind.GENERATE, 0, 10**9, time.time_ns())
    RunRewards(monitor, pipeline.note).observe(record)
    assert record.values.keys() <= MONITORED
    return {anomaly.rule for anomaly in pipeline.step(record, 0.0, 0.0)}


def test_every_rule_has_a_breach() -> None:
    assert BREACHES.keys() == NAMES


def test_a_steady_reward_breaks_no_rule() -> None:
    monitor = RewardModelMonitor()
    steady(monitor)
    assert judged(monitor) == set()
    assert monitor.latest.signals()[0].keys() == MONITORED, "all were judged"


@pytest.mark.parametrize("rule", BREACHES)
def test_a_breach_is_told(rule: str) -> None:
    monitor = RewardModelMonitor()
    steady(monitor)
    BREACHES[rule](monitor)
    assert rule in judged(monitor)


# Bounds


def test_names_without_end_cost_a_bounded_number_of_series() -> None:
    monitor = RewardModelMonitor()
    for number in range(3 * MAX_REWARD_FUNCTIONS):
        monitor.observe(f"reward {number} <b>", [float(score) for score in range(16)], TEXTS[0])
    found = monitor.judge_all()
    view = RunView(RunIdentity("r"), Pipeline(RunIdentity("r"), Settings(journal="off"), None).snapshot)
    shown = samples(
        view._replace(rewards=found.rewards, agreement=found.agreement, rewards_dropped=found.dropped)
    )
    of_rewards = [key for key in shown if key[0].startswith("rlhf_reward_model_")]
    assert len({key for key in of_rewards if key[0] == "rlhf_reward_model_mean"}) == MAX_REWARD_FUNCTIONS
    assert len(of_rewards) <= 30 * MAX_REWARD_FUNCTIONS
    assert shown["rlhf_dropped_series_total", "watched_reward"] == 2 * MAX_REWARD_FUNCTIONS


def test_rewards_are_judged_no_more_often_than_a_hundredth_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitoring, "SOONEST_S", 3600.0)
    monitor = RewardModelMonitor()
    monitor.observe("reward", STEADY[0])
    first = monitor.names and monitor.latest
    monitor.observe("reward", STEADY[1])
    assert monitor.names == ("reward",)
    assert monitor.latest is first
    assert monitor.judge_all().rewards["reward"].reliability.scores == 32
