"""Per-step values from the trainer's lists, whatever ``logging_steps`` is and whatever lies in the lists."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.sources.step_metrics import StepMetrics, means
from rlhf_otel.sources.trl_logs import map_logs


class Grpo:
    """Keeps lists as GRPO does: one value a micro-batch, averaged and cleared when it logs."""

    def __init__(self) -> None:
        self._metrics: dict[str, dict[str, list[Any]]] = {
            "train": defaultdict(list),
            "eval": defaultdict(list),
        }

    def measure(self, **values: Any) -> None:
        for key, value in values.items():
            self._metrics["train"][key].append(value)

    def log(self) -> None:
        self._metrics["train"].clear()


class OnlineDpo:
    """Keeps lists in ``stats``, and makes new ones when it logs."""

    def __init__(self) -> None:
        self.stats: dict[str, list[float]] = {"objective/kl": []}


def step_of(metrics: StepMetrics) -> dict[str, Any]:
    return means(metrics.appended(metrics.take()))


def test_a_step_has_the_mean_of_its_micro_batches() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(kl=1.0)
    trainer.measure(kl=3.0, reward=0.5)
    assert step_of(metrics) == {"kl": 2.0, "reward": 0.5}


def test_a_step_has_nothing_of_the_steps_before() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(kl=1.0, reward=1.0)
    step_of(metrics)
    trainer.measure(kl=5.0)
    assert step_of(metrics) == {"kl": 5.0}
    assert step_of(metrics) == {}


def test_steps_may_be_worked_out_later_in_their_order() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    held = []
    for step in range(6):
        trainer.measure(kl=float(step))
        held.append(metrics.take())
        if step % 2:
            trainer.log()
    assert [means(metrics.appended(h)) for h in held] == [{"kl": float(step)} for step in range(6)]


@given(st.lists(st.tuples(st.lists(st.floats(-1e3, 1e3), max_size=3), st.booleans()), max_size=20))
def test_logging_changes_no_step(steps: list[tuple[list[float], bool]]) -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    for values, logs in steps:
        for value in values:
            trainer.measure(kl=value)
        found = step_of(metrics)
        assert found == ({"kl": pytest.approx(sum(values) / len(values))} if values else {})
        if logs:
            trainer.log()


def test_a_list_that_is_replaced_is_new_beside_one_that_goes_on() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(num_tokens=10.0, kl=1.0)
    step_of(metrics)
    trainer._metrics["train"]["num_tokens"] = [20.0]  # as GRPO does with each generation
    assert step_of(metrics) == {"num_tokens": 20.0}


def test_a_key_that_comes_later_hides_no_list_that_goes_on() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(kl=1.0)
    step_of(metrics)
    trainer.measure(reward=2.0)
    assert step_of(metrics) == {"reward": 2.0}


def test_evaluation_s_lists_are_not_looked_at() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer._metrics["eval"]["reward"].append(9.0)
    assert step_of(metrics) == {}


def test_a_generation_is_seen_once() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    seen = []
    for rewards, logs in ((False, False), (True, False), (False, True), (False, False), (True, False)):
        if rewards:
            trainer.measure(reward=1.0)
        metrics.take()
        seen.append(metrics.generated)
        if logs:
            trainer.log()
    assert seen == [False, True, False, False, True]


def test_lists_in_stats_are_read_as_well() -> None:
    trainer = OnlineDpo()
    metrics = StepMetrics(trainer)
    assert metrics.available
    trainer.stats["objective/kl"].append(2.0)
    assert step_of(metrics) == {"objective/kl": 2.0}
    trainer.stats = {"objective/kl": [4.0]}
    assert step_of(metrics) == {"objective/kl": 4.0}


@pytest.mark.parametrize("stats", [None, {}, {"count": 3}, [1.0]], ids=repr)
def test_a_trainer_without_lists_is_told_apart(stats: Any) -> None:
    trainer = OnlineDpo()
    trainer.stats = stats
    assert not StepMetrics(trainer).available
    assert not StepMetrics(None).available


# What lies in the lists


def test_nan_stays_nan() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(kl=math.nan)
    trainer.measure(kl=1.0)
    assert math.isnan(step_of(metrics)["kl"])


def test_pairs_are_numerators_and_denominators() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(rate=(1.0, 4.0), empty=(0.0, 0.0))
    trainer.measure(rate=(3.0, 4.0))
    assert step_of(metrics) == {"rate": 0.5}


def test_sums_and_counts_of_either_side_are_divided() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    values = {
        "rewards/chosen_sum": 6.0,
        "count/chosen": 3.0,
        "rewards/rejected_sum": 0.0,
        "count/rejected": 0.0,
    }
    trainer.measure(**values)
    assert step_of(metrics) == {"rewards/chosen": 2.0}


def test_tensors_are_averaged() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer.measure(kl=torch.tensor(1.0))
    trainer.measure(kl=torch.tensor(2.0))
    assert map_logs(step_of(metrics), "grpo").values == {"kl_per_token": 1.5}


@pytest.mark.parametrize(
    "odd",
    [None, "text", {"nested": 1.0}, [1.0], object(), torch.tensor([1.0, 2.0]), b"", (), (1.0,)],
    ids=repr,
)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("beside", [(), (1.0,)], ids=["alone", "beside a number"])
def test_an_odd_value_costs_no_other_key(odd: Any, times: int, beside: tuple[float, ...]) -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    for value in (*beside, *[odd] * times):
        trainer.measure(odd=value, kl=0.5)
    mapped = map_logs(step_of(metrics), "grpo")
    assert mapped.values == {"kl_per_token": 0.5}
    assert faults.total() <= 1


def test_what_is_no_list_is_left_alone() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    trainer._metrics["train"]["deque"] = (1.0, 2.0)  # type: ignore[assignment]
    trainer.measure(kl=0.5)
    assert step_of(metrics) == {"kl": 0.5}


def test_async_trainers_name_the_reduction_in_the_key() -> None:
    trainer = Grpo()
    metrics = StepMetrics(trainer)
    for value in (1.0, 5.0, 3.0):
        trainer.measure(**{"a/max": value, "a/x_min": value, "a/total_dropped": value, "a/mean": value})
    found = means(metrics.appended(metrics.take()), reduces_by_name=True)
    assert found == {"a/max": 5.0, "a/x_min": 1.0, "a/total_dropped": 9.0, "a/mean": 3.0}
