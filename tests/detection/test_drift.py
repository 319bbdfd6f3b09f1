"""CUSUM against the trend: changes are found, trends and spikes are not."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.detection.drift import LARGEST, WARM_UP, Drift

FOUND = 40.0
"""Height that the rules compare it with."""


def noise(count: int, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(0.0, 1.0) for _ in range(count)]


def last(values: list[float]) -> float:
    drift = Drift()
    for value in values:
        found = drift.observe(value)
    assert found is not None
    return found


def highest(values: list[float], after: int = 0) -> float:
    """Largest magnitude of the statistic, not counting the first ``after`` steps."""
    drift = Drift()
    found = [drift.observe(value) for value in values]
    return max(abs(statistic) for statistic in found[after:] if statistic is not None)


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_no_change(seed: int) -> None:
    # Before, the trend is only that of the warm-up's 20 values: in 15 of 200 runs it looks like a change.
    assert highest(noise(2000, seed), after=300) < FOUND


@pytest.mark.parametrize("slope", [0.1, -0.1, 1.0])
def test_a_steady_trend_is_no_change(slope: float) -> None:
    assert highest([value + slope * step for step, value in enumerate(noise(1000))]) < FOUND


@pytest.mark.parametrize("sign", [1, -1])
def test_a_lasting_change_of_level_is_found_with_its_direction(sign: int) -> None:
    changed = noise(200) + [value + sign * 5.0 for value in noise(40, seed=1)]
    assert sign * last(changed) > FOUND


@pytest.mark.parametrize("sign", [1, -1])
def test_a_change_of_slope_is_found(sign: int) -> None:
    bent = noise(200) + [value + sign * 0.3 * step for step, value in enumerate(noise(100, seed=1))]
    assert sign * last(bent) > FOUND


def test_a_single_spike_is_no_change() -> None:
    assert highest([*noise(200), 1e9, *noise(200, seed=1)]) < FOUND


def test_the_sums_are_bounded_and_come_down_again() -> None:
    drift = Drift()
    for value in noise(100):
        drift.observe(value)
    level = 0.0
    for _ in range(5000):
        level = level * 1.01 + 10.0
        assert abs(drift.observe(min(level, 1e12)) or 0.0) <= LARGEST


def test_unknown_during_warm_up() -> None:
    drift = Drift()
    assert [drift.observe(value) for value in noise(WARM_UP)] == [None] * WARM_UP
    assert drift.observe(0.0) is not None


def test_a_constant_series_has_no_noise_to_measure_by_and_no_change() -> None:
    assert highest([0.25] * 500) < FOUND


@given(st.lists(st.floats(-1e3, 1e3), max_size=60), st.integers(0, 60))
def test_a_restored_one_goes_on_as_if_nothing_had_happened(values: list[float], cut: int) -> None:
    whole, first, second = Drift(), Drift(), Drift()
    for value in values[:cut]:
        whole.observe(value)
        first.observe(value)
    second.restore(json.loads(json.dumps(first.state())))
    for value in values[cut:]:
        assert second.observe(value) == whole.observe(value)
