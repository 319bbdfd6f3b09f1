"""Stability, consistency and the rest mean what they say."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.reward_model.reliability import LEAST, consistency, reliability, stability
from rlhf_otel.reward_model.shortcuts import rank_correlation, ranks, shortcuts_of

SCORES = st.lists(st.integers(-50, 50).map(float), min_size=LEAST, max_size=200)


def noise(count: int = 256, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0.0, 1.0) for _ in range(count)]


def jumping(height: float) -> list[float]:
    return [score + height * (i // 32 % 2) for i, score in enumerate(noise())]


@given(SCORES, st.sampled_from([-1024.0, 8.0, 4096.0]), st.sampled_from([0.5, 2.0, 16.0]))
def test_stability_knows_no_zero_and_no_unit(scores: list[float], shift: float, factor: float) -> None:
    plain, moved = stability(scores), stability([factor * score + shift for score in scores])
    assert plain is not None
    assert moved == pytest.approx(plain, abs=1e-6)
    assert 0.0 <= plain <= 1.0


def test_independent_scores_are_stable_and_so_is_a_policy_that_learns() -> None:
    assert (stability(noise()) or 0) > 0.9
    assert (stability([score + 0.05 * i for i, score in enumerate(noise())]) or 0) > 0.9


def test_the_higher_the_jumps_of_the_level_the_less_stable() -> None:
    found = [stability(jumping(height)) or 0.0 for height in (0.0, 1.0, 3.0, 10.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.2


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e9])
def test_a_constant_is_not_stable(value: float) -> None:
    found = reliability([value] * 100)
    assert found.collapsed
    assert found.stability == 0.0
    assert found.saturated_high is None


def test_too_few_scores_say_nothing() -> None:
    found = reliability(noise(LEAST - 1))
    assert (found.stability, found.consistency, found.kolmogorov_smirnov) == (None, None, None)
    assert reliability([]).scores == reliability([float("nan")] * 50).scores == 0


def test_scores_that_are_not_finite_are_left_out() -> None:
    scores = noise(100)
    spoilt = [x for score in scores for x in (score, float("nan"), float("inf"))]
    assert reliability(spoilt).as_dict() == reliability(scores).as_dict()


def test_consistency_is_one_for_the_same_twice_and_nothing_for_chance() -> None:
    scores = noise(100)
    assert consistency([(s, s) for s in scores]) == 1.0
    assert (consistency(list(zip(scores, noise(100, 1), strict=True))) or 0.0) < 0.3
    noisy = consistency([(s, s + e) for s, e in zip(scores, noise(100, 2), strict=True)])
    assert noisy is not None
    assert 0.4 < noisy < 0.8


def test_consistency_knows_no_zero_and_no_unit() -> None:
    pairs = list(
        zip(noise(60), [s + 0.3 * e for s, e in zip(noise(60), noise(60, 1), strict=True)], strict=True)
    )
    moved = [(3 * a + 7, 3 * b + 7) for a, b in pairs]
    assert consistency(moved) == pytest.approx(consistency(pairs) or -1)


def test_of_a_constant_nothing_can_be_consistent() -> None:
    assert consistency([(1.0, 1.0)] * 50) is None


@given(SCORES)
def test_the_histogram_has_every_score(scores: list[float]) -> None:
    found = reliability(scores)
    assert found.histogram is not None
    assert sum(found.histogram.counts) == len(scores) == found.scores


def test_the_largest_floats_break_nothing() -> None:
    found = reliability([1.7e308, -1.7e308] * 20)
    assert found.histogram is not None
    assert sum(found.histogram.counts) == 40


def test_saturation_is_relative_to_the_range_that_was_seen() -> None:
    scores = [0.99, 1.0] * 40
    assert reliability(scores, observed_range=(-4.0, 1.0)).saturated_high == 1.0
    assert reliability(scores, observed_range=(-4.0, 9.0)).saturated_high == 0.0


def test_a_reward_that_follows_length_is_found_out() -> None:
    texts = ["word " * (1 + i % 17) for i in range(80)]
    found = reliability([float(len(t)) for t in texts], texts=[shortcuts_of(t) for t in texts])
    assert found.shortcuts["length"] == pytest.approx(1.0)
    unrelated = reliability(noise(80), texts=[shortcuts_of(t) for t in texts])
    assert abs(unrelated.shortcuts["length"]) < 0.4


def test_shortcuts_of_a_text() -> None:
    length, repetition, markdown = shortcuts_of("# Title\n- one\n- **two**")
    assert (length, repetition) == (23.0, 0.0)
    assert markdown > 1
    assert shortcuts_of("a b c d " * 20)[1] > 0.9
    assert shortcuts_of("") == (0.0, 0.0, 0.0)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_rank_correlation_is_symmetric_and_knows_only_order(pairs: list[tuple[int, int]]) -> None:
    first, second = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = rank_correlation(first, second)
    assert (
        found == pytest.approx(rank_correlation(second, first), nan_ok=False) if found is not None else True
    )
    stretched = rank_correlation([a**3 for a in first], second)
    assert (stretched is None) == (found is None)
    if found is not None:
        assert -1.0 <= found <= 1.0
        assert stretched == pytest.approx(found)


def test_tied_values_share_their_rank() -> None:
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]
