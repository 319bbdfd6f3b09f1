"""Distances of two samples of scores: their laws, their significance, and what they are beside a library's."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.reward_model.two_samples import (
    chi_squared_tail,
    deviation,
    kolmogorov_smirnov,
    population_stability_index,
    wasserstein,
)

SCORES = st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=60)
DISTANCES = (kolmogorov_smirnov, population_stability_index, wasserstein)


def normal(count: int, seed: int, mean: float = 0.0) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, 1.0) for _ in range(count)]


@pytest.mark.parametrize("distance", DISTANCES)
@given(SCORES)
def test_a_sample_is_no_distance_from_itself(distance, scores: list[float]) -> None:  # type: ignore[no-untyped-def]
    found = distance(scores, scores)
    assert found.value == pytest.approx(0.0, abs=1e-9)
    assert found.p > 0.5


@pytest.mark.parametrize("distance", DISTANCES)
@given(st.lists(st.integers(-1000, 1000), min_size=8, max_size=60), st.sampled_from([0.25, 2.0, 64.0]))
def test_stretching_both_changes_nothing(distance, scores: list[int], factor: float) -> None:  # type: ignore[no-untyped-def]
    half = len(scores) // 2
    first, second = [float(s) for s in scores[:half]], [float(s) for s in scores[half:]]
    plain = distance(first, second)
    stretched = distance([s * factor for s in first], [s * factor for s in second])
    assert stretched.value == pytest.approx(plain.value)
    assert stretched.p == pytest.approx(plain.p)


@pytest.mark.parametrize("distance", DISTANCES)
def test_a_shift_is_significant_and_chance_is_not(distance) -> None:  # type: ignore[no-untyped-def]
    reference = normal(400, 0)
    assert distance(reference, normal(400, 1, mean=1.0)).p <= 0.01
    chance = [distance(reference, normal(400, seed)).p for seed in range(2, 12)]
    assert sum(p < 0.01 for p in chance) <= 1


def test_a_shift_of_one_deviation_is_a_distance_of_one() -> None:
    assert wasserstein(normal(2000, 0), normal(2000, 1, mean=1.0)).value == pytest.approx(1.0, abs=0.1)


def test_scores_that_left_a_constant_are_infinitely_far() -> None:
    assert wasserstein([1.0] * 40, [2.0] * 40).value == math.inf
    assert kolmogorov_smirnov([1.0] * 40, [2.0] * 40).value == 1.0


@pytest.mark.parametrize(
    ("value", "degrees", "expected"),
    [(3.841, 1, 0.05), (5.991, 2, 0.05), (16.919, 9, 0.05), (21.666, 9, 0.01), (0.0, 4, 1.0), (1e6, 3, 0.0)],
)
def test_the_tail_of_chi_squared_is_that_of_the_tables(value: float, degrees: int, expected: float) -> None:
    assert chi_squared_tail(value, degrees) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("scaled", "expected"), [(1.358, 0.05), (1.628, 0.01), (0.5, 0.9639)])
def test_kolmogorov_s_significance_is_that_of_the_tables(scaled: float, expected: float) -> None:
    from rlhf_otel.reward_model.two_samples import _kolmogorov

    assert _kolmogorov(scaled) == pytest.approx(expected, abs=1e-3)


def test_a_constant_has_no_deviation() -> None:
    assert deviation([0.1] * 7) == 0.0
    assert deviation([]) == 0.0


def test_training_s_random_numbers_are_left_alone() -> None:
    random.seed(3)
    expected = random.Random(3).random()
    wasserstein(normal(50, 0), normal(50, 1))
    assert random.random() == expected
