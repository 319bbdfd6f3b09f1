"""Groups without advantage, counted from the rewards themselves: TRL's own share depends on its settings."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import COMPLETIONS, GROUP, build_trainer

from rlhf_otel import TelemetryCallback
from rlhf_otel.sources.groups import (
    Generation,
    buffers_of,
    group_size_of,
    last_generation,
    unscored_ratio,
    weighted_rewards,
    zero_advantage_ratio,
)

NAN = math.nan


@pytest.mark.parametrize(
    ("rewards", "size", "expected"),
    [
        ([1, 1, 1, 1], 2, 1.0),
        ([1, 1, 0, 1], 2, 0.5),
        ([0, 1, 0, 1], 2, 0.0),
        ([0.1, 0.1 + 1e-9], 2, 1.0),
        ([1e6, 1e6 + 0.5], 2, 1.0),
        ([0.0, 1e-3], 2, 0.0),
        ([0.0, 1.5e-6], 2, 0.0),
        ([0.0, 0.5e-6], 2, 1.0),
        ([NAN, 1.0, 0.0, 1.0], 2, 0.5),
        ([NAN, NAN, NAN, NAN], 2, 1.0),
        ([1.0, NAN, 0.0, NAN], 4, 0.0),
        ([1, 1, 1], 2, 1.0),
        ([1], 2, None),
        ([], 2, None),
        ([1, 2], 0, None),
    ],
)
def test_share_of_groups_without_advantage(rewards: list[float], size: int, expected: float | None) -> None:
    assert zero_advantage_ratio(rewards, size) == expected


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=8), st.integers(-5, 5)
)
def test_it_is_the_share_of_groups_whose_rewards_are_all_equal(groups: list[list[int]], offset: int) -> None:
    rewards = [float(reward + offset) for group in groups for reward in group]
    equal = sum(len(set(group)) == 1 for group in groups)
    assert zero_advantage_ratio(rewards, 4) == equal / len(groups)


def test_rewards_are_weighted_over_the_functions_that_scored() -> None:
    generation = Generation([[1.0, NAN, NAN], [10.0, 10.0, NAN]], torch.tensor([1.0, 0.5]), 3)
    first, second, third = weighted_rewards(generation)
    assert (first, second) == (6.0, 5.0)
    assert math.isnan(third)


def test_a_function_without_weight_makes_no_advantage() -> None:
    generation = Generation([[1.0, 1.0], [0.0, 9.0]], [1.0, 0.0], 2)
    assert zero_advantage_ratio(weighted_rewards(generation), 2) == 1.0


def test_weights_are_one_unless_given() -> None:
    assert weighted_rewards(Generation([[1.0], [2.0]], None, 1)) == [3.0]


def test_unscored_is_the_share_of_the_function_where_it_is_highest() -> None:
    assert unscored_ratio(Generation([[1.0, 1.0], [NAN, 1.0]], None, 2)) == 0.5
    assert unscored_ratio(Generation([[NAN, NAN], [1.0, 1.0]], None, 2)) == 1.0
    assert unscored_ratio(Generation([[], []], None, 2)) == 0.0


@pytest.mark.parametrize(
    "trainer",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(_logs=None, num_generations=4),
        SimpleNamespace(_logs={}, num_generations=4),
        SimpleNamespace(_logs={"rewards": {}}, num_generations=4),
        SimpleNamespace(_logs={"rewards": {"f": [1.0]}}),
        SimpleNamespace(_logs={"rewards": {"f": [1.0]}}, num_generations=1),
        SimpleNamespace(_logs={"rewards": {"f": [1.0]}}, num_generations=None),
    ],
    ids=str,
)
def test_no_buffers_no_generation(trainer: Any) -> None:
    assert last_generation(buffers_of(trainer), None, group_size_of(trainer)) is None


def test_a_generation_is_a_copy() -> None:
    logs: dict[str, Any] = {"rewards": {"f": [1.0, 2.0]}}
    trainer = SimpleNamespace(_logs=logs, num_generations=2)
    generation = last_generation(buffers_of(trainer), None, group_size=2)
    logs["rewards"]["f"].clear()
    assert generation is not None
    assert generation.by_function == [[1.0, 2.0]]


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_real_training_with_half_of_its_groups_dead(scale_rewards: str, tmp_path: Path) -> None:
    def half(completions: list[str], **_: Any) -> list[float]:
        """Different rewards in every second group."""
        return [float(i) if i // GROUP % 2 else 1.0 for i in range(len(completions))]

    observer = TelemetryCallback(metrics_port="off", journal="off")
    trainer = build_trainer(
        tmp_path, [observer], reward_funcs=[half], scale_rewards=scale_rewards, max_steps=2, logging_steps=1
    )
    trainer.train()

    assert COMPLETIONS == 2 * GROUP
    assert observer.run is not None
    values = observer.run.pipeline.snapshot.values
    assert values["zero_advantage_groups"] == 0.5
    assert values["unscored_ratio"] == 0.0
    if scale_rewards == "batch":
        assert values["reward_zero_std_ratio"] == 0.0, "what TRL says of the same step"
