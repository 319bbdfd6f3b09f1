"""CUSUM against the trend: changes are found, trends and spikes are not."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.detection.drift import ALLOWANCE, CLIP, LARGEST, WARM_UP, Drift

FOUND = 40.0
"""Height that the rules compare it with."""
SERIES = st.lists(st.floats(-1e3, 1e3), max_size=60)


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


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sums_grow_by_no_more_than_the_clipped_error_and_stop(sign: int) -> None:
    drift = Drift()
    for value in noise(100):
        drift.observe(value)
    seen = [sign * (drift.observe(sign * 10.0 * 1.1**step) or 0.0) for step in range(500)]
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) == pytest.approx(CLIP - ALLOWANCE)
    assert seen[-1] == LARGEST


@given(SERIES, st.integers(-20, 20))
def test_a_change_of_unit_changes_nothing(values: list[float], exponent: int) -> None:
    one, other, factor = Drift(), Drift(), 2.0**exponent
    for value in noise(WARM_UP) + values:
        assert one.observe(value) == other.observe(factor * value)


@given(SERIES)
def test_downwards_is_as_upwards(values: list[float]) -> None:
    one, other = Drift(), Drift()
    for value in noise(WARM_UP) + values:
        up, down = one.observe(value), other.observe(-value)
        assert up is None or down is None or abs(up) == abs(down)


@given(st.floats(-5, 5), st.floats(-100, 100))
def test_a_trend_that_was_there_from_the_start_changes_hardly_anything(slope: float, level: float) -> None:
    plain, trending = Drift(), Drift()
    for step, value in enumerate(noise(150)):
        expected = plain.observe(value)
        found = trending.observe(value + slope * step + level)
    assert expected is not None
    assert found is not None
    # The moving range, the unit of everything here, has the slope in it.
    assert abs(found) <= max(abs(expected), 5.0) + 1e-6


def test_unknown_during_warm_up() -> None:
    drift = Drift()
    assert [drift.observe(value) for value in noise(WARM_UP)] == [None] * WARM_UP
    assert drift.observe(0.0) is not None


def test_a_constant_series_has_no_noise_to_measure_by_and_no_change() -> None:
    assert highest([0.25] * 500) < FOUND


@given(SERIES, st.integers(0, 60))
def test_a_restored_one_goes_on_as_if_nothing_had_happened(values: list[float], cut: int) -> None:
    whole, first, second = Drift(), Drift(), Drift()
    for value in values[:cut]:
        whole.observe(value)
        first.observe(value)
    second.restore(json.loads(json.dumps(first.state())))
    for value in values[cut:]:
        assert second.observe(value) == whole.observe(value)
