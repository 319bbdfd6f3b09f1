"""Spread within groups and agreement between reward functions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.sources.groups import advantage_deviation, lowest_correlation

REWARDS = st.lists(st.floats(-100, 100), min_size=8, max_size=32)


def test_the_spread_within_groups_leaves_out_what_lies_between_them() -> None:
    assert advantage_deviation([1.0, 1.0, 5.0, 5.0], 2) == 0.0
    assert advantage_deviation([0.0, 2.0, 4.0, 6.0], 2) == 1.0


def test_completions_that_nobody_scored_are_left_out() -> None:
    assert advantage_deviation([0.0, 2.0, math.nan, math.nan], 2) == 1.0
    assert advantage_deviation([math.nan, math.nan], 2) is None
    assert advantage_deviation([1.0], 2) is None


@given(REWARDS, st.floats(-10, 10))
def test_a_reward_that_is_shifted_spreads_as_before(rewards: list[float], shift: float) -> None:
    shifted = advantage_deviation([reward + shift for reward in rewards], 4)
    assert shifted == pytest.approx(advantage_deviation(rewards, 4), abs=1e-6)


@given(REWARDS)
def test_correlation_lies_between_minus_one_and_one(rewards: list[float]) -> None:
    found = lowest_correlation([rewards, list(reversed(rewards))])
    assert found is None or -1.000001 <= found <= 1.000001


def test_the_lowest_of_all_pairs_counts() -> None:
    up, down = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]
    assert lowest_correlation([up, up, down]) == pytest.approx(-1.0)
    assert lowest_correlation([up, up]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "columns",
    [[[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0], [5.0, 5.0, 5.0]], [[1.0, 2.0, 3.0], [math.nan, math.nan, 1.0]]],
    ids=["a single function", "a constant one", "one that scored hardly anything"],
)
def test_what_cannot_be_compared_correlates_with_nothing(columns: list[list[float]]) -> None:
    assert lowest_correlation(columns) is None
