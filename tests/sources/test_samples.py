"""Signals of single completions, from the trainer's buffers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.sources.groups import Generation
from rlhf_otel.sources.reward_range import RewardRange
from rlhf_otel.sources.samples import BINS, Samples, histogram, repetition, text_of, truncated_token_ratio

NAN = math.nan


def generation(rewards: list[float], texts: list[Any], size: int = 2) -> Generation:
    return Generation([rewards], None, size, ["accuracy"], texts)


def test_dead_groups_that_are_all_right_are_told_from_those_that_are_all_wrong() -> None:
    samples = Samples()
    found = samples.signals(generation([1, 1, 0, 0, 0, 0, 0, 1], []), {})

    assert (found["groups_all_right"], found["groups_all_wrong"]) == (0.25, 0.5)
    # The range of what was seen before is remembered: a batch that is all right is not called "constant".
    later = samples.signals(generation([1, 1, 1, 1], []), {})
    assert (later["groups_all_right"], later["groups_all_wrong"]) == (1.0, 0.0)


def test_a_reward_that_was_never_different_is_neither_right_nor_wrong() -> None:
    assert "groups_all_right" not in Samples().signals(generation([0.5] * 4, []), {})


def test_a_reward_that_was_never_more_than_zero_is_wrong() -> None:
    for nothing in (0.0, -1.0):
        found = Samples().signals(generation([nothing] * 4, []), {})
        assert (found["groups_all_right"], found["groups_all_wrong"]) == (0.0, 1.0)


def shares(samples: Samples, rewards: list[float]) -> tuple[float, float]:
    found = samples.signals(generation(rewards, []), {})
    return found["groups_all_right"], found["groups_all_wrong"]


@pytest.mark.parametrize("outlier", [-100.0, 100.0, -1e300, 1e300])
def test_one_outlier_changes_nothing(outlier: float) -> None:
    samples, usual = Samples(), [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    shares(samples, usual)
    shares(samples, [*usual[:5], outlier])

    for _ in range(200):
        assert shares(samples, usual) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


@pytest.mark.parametrize("outlier", [-100.0, 100.0])
def test_one_in_the_very_first_generation_is_forgotten(outlier: float) -> None:
    samples, usual = Samples(), [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    shares(samples, [*usual[:5], outlier])
    for _ in range(150):
        shares(samples, usual)
    assert shares(samples, usual) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_another_scale_of_rewards_is_followed() -> None:
    samples = Samples()
    shares(samples, [0, 0, 1, 1])
    for _ in range(150):
        shares(samples, [50, 50, 100, 100])
    assert shares(samples, [50, 50, 100, 100]) == (0.5, 0.5)


@pytest.mark.parametrize(("reward", "expected"), [(1.0, (1.0, 0.0)), (0.0, (0.0, 1.0))])
def test_however_long_all_groups_are_alike_they_stay_what_they_were(
    reward: float, expected: tuple[float, float]
) -> None:
    samples = Samples()
    shares(samples, [0, 0, 1, 1])
    for _ in range(2000):
        found = shares(samples, [reward] * 4)
    assert found == expected


def test_the_range_goes_on_in_the_next_attempt() -> None:
    samples = Samples()
    shares(samples, [0, 0, 1, 1])
    kept = json.loads(json.dumps(samples.rewards.state()))

    assert shares(Samples(rewards=RewardRange(kept)), [1, 1, 1, 1]) == (1.0, 0.0)
    assert RewardRange().state() == []


@pytest.mark.parametrize("known", [[1.0], [1.0, 0.0], [NAN, 1.0], [0.0, math.inf], [0.0, 1.0, 2.0]])
def test_what_is_no_range_is_refused(known: list[float]) -> None:
    with pytest.raises(ValueError, match="no range"):
        RewardRange(known)


@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8), min_size=1, max_size=30))
def test_a_range_is_one_at_any_time_and_the_top_of_a_group_is_never_lower_than_its_bottom(
    generations: list[list[float]],
) -> None:
    found = RewardRange()
    for rewards in generations:
        found.observe(rewards)
        low, high = found.state()
        assert low <= high
        assert found.is_high(high) in (True, None, False if high <= 0 else None)
        if found.is_high(min(rewards)):
            assert found.is_high(max(rewards))


def test_a_group_that_nobody_scored_is_neither() -> None:
    found = Samples().signals(generation([NAN, NAN, 0, 1], []), {})

    assert (found["groups_all_right"], found["groups_all_wrong"]) == (0.0, 0.0)


def test_repetition_distinct_pairs_and_empty_completions() -> None:
    loop, prose = "so it is " * 30, "one two three four five six"
    found = Samples().signals(generation([0, 1, 0, 1], [loop, prose, "", " \n"]), {})

    assert found["empty_completion_ratio"] == 0.5
    assert found["repetition_ratio"] == pytest.approx((1 - 3 / 87 + 0) / 2)
    assert found["distinct_2"] == pytest.approx((3 + 5) / (89 + 5))


def test_length_bias_is_the_correlation_of_reward_with_length() -> None:
    texts = ["a" * 4, "a" * 3, "a" * 2, "a"]

    assert Samples().signals(generation([4, 3, 2, 1], texts), {})[
        "reward_length_correlation"
    ] == pytest.approx(1)
    assert Samples().signals(generation([1, 2, 3, 4], texts), {})[
        "reward_length_correlation"
    ] == pytest.approx(-1)
    assert "reward_length_correlation" not in Samples().signals(generation([1, 1, 1, 1], texts), {})
    assert "reward_length_correlation" not in Samples().signals(generation([NAN, NAN, NAN, 1], texts), {})


def test_messages_are_read_by_their_contents() -> None:
    messages = [
        {"role": "assistant", "content": "yes"},
        {"role": "assistant", "content": [{"type": "text", "text": "no"}, {"type": "image"}]},
        {"role": "assistant", "content": None},
    ]

    assert text_of(messages).split() == ["yes", "no"]
    assert text_of(None) == ""


def test_tokens_of_completions_that_were_cut_off() -> None:
    logged = {"completion_length": 100.0, "truncated_ratio": 0.5, "terminated_length": 50.0}

    assert truncated_token_ratio(logged) == pytest.approx(0.75)
    assert truncated_token_ratio({**logged, "truncated_ratio": 0.0, "terminated_length": 100.0}) == 0.0
    assert truncated_token_ratio({**logged, "truncated_ratio": 1.0, "terminated_length": 0.0}) == 1.0
    assert truncated_token_ratio({"completion_length": 100.0}) is None
    assert Samples(masks_truncated=True).signals(generation([0, 1], []), logged)["masked_token_ratio"] == 0.75
    assert Samples().signals(generation([0, 1], []), logged)["masked_token_ratio"] == 0.0


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=40))
def test_a_histogram_counts_every_finite_reward_once(rewards: list[float]) -> None:
    finite = [reward for reward in rewards if math.isfinite(reward)]
    found = histogram(rewards)

    assert (found is None) == (not finite)
    if found is not None:
        assert len(found.counts) == BINS
        assert sum(found.counts) == len(finite)
        assert (found.low, found.high) == (min(finite), max(finite))


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_repetition_is_a_share(words: list[str]) -> None:
    found = repetition(words)

    assert (found is None) == (len(words) < 4)
    assert found is None or 0 <= found < 1


@given(
    st.lists(st.one_of(st.none(), st.text(), st.integers(), st.lists(st.dictionaries(st.text(), st.text()))))
)
def test_whatever_lies_in_the_buffer_costs_nothing(completions: list[Any]) -> None:
    rewards = [float(number % 3) for number in range(len(completions))]

    found = Samples().signals(generation(rewards, completions), {})

    assert all(isinstance(value, float) for value in found.values())
