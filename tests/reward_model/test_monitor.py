"""`RewardModelMonitor` around reward functions, alone and in a real GRPO run."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import random
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build_trainer

from rlhf_otel import ConfigurationError, RewardModelMonitor
from rlhf_otel.reward_model.monitor import MOST_NAMES, is_timeout


def length(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Characters."""
    return [float(len(text)) for text in completions]


async def eventually(completions: list[str], **columns: Any) -> list[float | None]:
    """Characters, or None for an empty one."""
    await asyncio.sleep(0)
    return [float(len(text)) or None for text in completions]


TEXTS = ["a" * (i % 13) for i in range(64)]


def test_it_keeps_name_signature_results_and_pickling() -> None:
    watched = RewardModelMonitor().wrap(length)
    assert watched.__name__ == "length"
    assert inspect.signature(watched) == inspect.signature(length)
    assert watched(prompts=[], completions=TEXTS) == length([], TEXTS)
    assert pickle.loads(pickle.dumps(watched)) is length


def test_an_async_function_stays_one() -> None:
    monitor = RewardModelMonitor()
    watched = monitor.wrap(eventually)
    assert inspect.iscoroutinefunction(watched)
    found = asyncio.run(watched(completions=TEXTS))
    assert found == asyncio.run(eventually(TEXTS))
    calls = monitor.judge("eventually").calls
    assert (calls.calls, calls.scores, calls.none) == (1, 64, 5)
    assert calls.none_rate == 5 / 64


def test_it_finds_out_a_reward_that_follows_length() -> None:
    monitor = RewardModelMonitor()
    watched = monitor.wrap(length)
    for _ in range(4):
        watched(prompts=[], completions=TEXTS)
    found = monitor.judge("length")
    assert found.reliability.shortcuts["length"] == pytest.approx(1.0)
    assert "shortcut" in {one.weakness for one in found.recommendations}


def test_an_honest_reward_is_recommended_nothing() -> None:
    rng = random.Random(0)
    monitor = RewardModelMonitor(rescore_every=1)
    kept: dict[str, float] = {}
    watched = monitor.wrap(
        lambda completions, **_: [kept.setdefault(t, rng.random()) for t in completions], "fair"
    )
    for batch in range(20):
        watched(completions=[f"{rng.random()} words {'x' * rng.randrange(30)} {batch}" for _ in range(16)])
    found = monitor.judge("fair")
    assert found.recommendations == []
    assert found.reliability.consistency == 1.0


def test_a_reward_that_rolls_dice_is_inconsistent_and_training_s_random_numbers_are_left_alone() -> None:
    def dice(completions: list[str], **_: Any) -> list[float]:
        return [torch.rand(()).item() + random.random() for _ in completions]

    def drawn(function: Any) -> list[float]:
        random.seed(1)
        torch.manual_seed(1)
        return [score for _ in range(12) for score in function(completions=TEXTS)]

    monitor = RewardModelMonitor(rescore_every=1)
    assert drawn(monitor.wrap(dice)) == drawn(dice)
    found = monitor.judge("dice")
    assert found.reliability.consistency is not None
    assert found.reliability.consistency < 0.5
    assert "inconsistent" in {one.weakness for one in found.recommendations}


def test_errors_and_timeouts_are_counted_and_reach_the_trainer() -> None:
    class ReadTimeoutError(OSError):
        """As HTTP libraries call theirs."""

    failures = iter([TimeoutError(), ReadTimeoutError(), ValueError("broken")])

    def failing(completions: list[str], **_: Any) -> list[float]:
        raise next(failures)

    monitor = RewardModelMonitor()
    watched = monitor.wrap(failing)
    for kind in (TimeoutError, ReadTimeoutError, ValueError):
        with pytest.raises(kind):
            watched(completions=TEXTS)
    calls = monitor.judge("failing").calls
    assert (calls.calls, calls.errors, calls.timeouts) == (3, 3, 2)
    assert {one.weakness for one in monitor.judge("failing").recommendations} == {"errors", "timeouts"}
    assert not is_timeout(ValueError())


def test_a_constant_a_nan_and_a_silent_reward_are_told_apart() -> None:
    monitor = RewardModelMonitor()
    for _ in range(4):
        monitor.observe("constant", [1.0] * 32)
        monitor.observe("nan", [0.5, float("nan")] * 16)
        monitor.observe("silent", [None, None, None, 1.0] * 8)
        monitor.observe("odd", ["text", 2.0, b"x", object()] * 8)
    weak = {name: {one.weakness for one in monitor.judge(name).recommendations} for name in monitor.names}
    assert "collapsed" in weak["constant"]
    assert "non-finite" in weak["nan"]
    assert "none" in weak["silent"]
    assert monitor.judge("odd").calls.none == 96


@pytest.mark.parametrize("scores", [[], [float("nan")] * 8, [None] * 8])
def test_batches_without_a_score_break_nothing(scores: list[Any]) -> None:
    monitor = RewardModelMonitor()
    monitor.observe("empty", scores)
    assert monitor.judge("empty").reliability.scores == 0
    assert monitor.report()["rewards"]["empty"]["calls"]["calls"] == 1


def test_drift_against_an_earlier_run() -> None:
    rng = random.Random(0)
    earlier = [rng.gauss(0, 1) for _ in range(500)]
    monitor = RewardModelMonitor()
    for name, mean in (("same", 0.0), ("moved", 2.0)):
        monitor.set_reference(name, earlier)
        monitor.observe(name, [rng.gauss(mean, 1) for _ in range(200)])
    drifted = {
        name: {one.weakness for one in monitor.judge(name).recommendations} for name in ("same", "moved")
    }
    assert drifted == {"same": set(), "moved": {"drift"}}


def test_drift_within_a_run_is_judged_once_the_window_has_left_the_reference() -> None:
    monitor = RewardModelMonitor(window=64)
    rng = random.Random(0)
    for _ in range(64):
        monitor.observe("reward", [rng.gauss(0, 1)])
    assert monitor.judge("reward").reliability.kolmogorov_smirnov is None
    for _ in range(64):
        monitor.observe("reward", [rng.gauss(3, 1)])
    found = monitor.judge("reward").reliability.kolmogorov_smirnov
    assert found is not None
    assert found.p < 1e-6


def test_two_rewards_that_disagree() -> None:
    monitor = RewardModelMonitor()
    scores = [float(i) for i in range(16)]
    monitor.observe("up", scores, TEXTS[:16])
    monitor.observe("down", scores[::-1], TEXTS[:16])
    monitor.observe("other batch", scores, TEXTS[16:32])
    assert monitor.disagreement() == {("down", "up"): pytest.approx(-1.0)}


def test_what_can_be_read_only_once_is_left_to_the_trainer() -> None:
    def generating(completions: list[str], **_: Any) -> Any:
        return (float(len(text)) for text in completions)

    monitor = RewardModelMonitor(rescore_every=1)
    assert list(monitor.wrap(generating)(completions=TEXTS)) == length([], TEXTS)
    assert monitor.names == ()


def test_an_object_whose_call_is_async_is_awaited() -> None:
    class Judge:
        async def __call__(self, completions: list[str], **_: Any) -> list[float]:
            return [1.0] * len(completions)

    monitor = RewardModelMonitor()
    assert asyncio.run(monitor.wrap(Judge(), "judge")(completions=TEXTS)) == [1.0] * 64
    assert monitor.judge("judge").calls.scores == 64


def test_scores_without_completions_are_not_taken_for_scores_of_the_same() -> None:
    monitor = RewardModelMonitor()
    monitor.observe("one", [1.0, 2.0, 3.0])
    monitor.observe("other", [3.0, 2.0, 1.0])
    assert monitor.disagreement() == {}


def test_names_are_bounded() -> None:
    monitor = RewardModelMonitor(window=64)
    for number in range(10 * MOST_NAMES):
        monitor.observe(f"<script>{number}</script>", [1.0])
    assert len(monitor.names) == MOST_NAMES
    assert monitor.dropped == 9 * MOST_NAMES


def test_labelled_pairs_calibrate() -> None:
    monitor = RewardModelMonitor()
    found = monitor.calibrate("judge", [2.0, 1.0, 3.0, 0.0], [1.0, 2.0, 0.0, 0.0])
    assert found is not None
    assert (found.pairs, found.accuracy) == (4, 0.625)
    assert monitor.calibrate("judge", [float("nan")], [1.0]) is None
    with pytest.raises(ValueError, match="2 chosen and 1 rejected"):
        monitor.calibrate("judge", [1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("setting", "said"), [({"window": 3}, "window"), ({"rescore_every": -1}, "rescore_every")]
)
def test_impossible_settings_are_refused(setting: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        RewardModelMonitor(**setting)


def test_a_model_is_no_reward_function() -> None:
    with pytest.raises(ConfigurationError, match="observe"):
        RewardModelMonitor().wrap(torch.nn.Linear(2, 1))


def test_scores_and_completions_have_to_match() -> None:
    with pytest.raises(ConfigurationError, match="2 scores for 1 completions"):
        RewardModelMonitor().observe("reward", [1.0, 2.0], ["one"])


def test_a_real_run_is_the_same_with_it(tmp_path: Path) -> None:
    def variety(completions: list[str], **_: Any) -> list[float]:
        return [float(len(set(text.split()))) for text in completions]

    def history(folder: Path, function: Any) -> list[dict[str, Any]]:
        folder.mkdir()
        trainer = build_trainer(folder, reward_funcs=(function,), max_steps=6)
        trainer.train()
        timed = ("time", "runtime", "per_second")
        return [
            {k: v for k, v in one.items() if not any(t in k for t in timed)}
            for one in trainer.state.log_history
        ]

    monitor = RewardModelMonitor(rescore_every=2)
    assert history(tmp_path / "with", monitor.wrap(variety)) == history(tmp_path / "without", variety)
    found = monitor.judge("variety")
    assert found.calls.scores == found.reliability.scores > 40
    assert found.reliability.consistency in (None, 1.0)
    assert found.calls.slowest_s > 0


def test_the_thread_ends_with_its_monitor() -> None:
    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "rlhf_otel-reward-model"}

    before = threads()
    monitor = RewardModelMonitor()
    (own,) = threads() - before
    monitor.observe("length", [1.0, 2.0], ["one", "two"])
    monitor.judge_all()
    del monitor
    gc.collect()
    own.join(30)
    assert not own.is_alive()
