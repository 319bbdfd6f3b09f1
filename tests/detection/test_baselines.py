"""Baselines: what a value may not do to them, and what they say of it."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME, SIGNALS, Signal
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.baselines import PATIENCE, WARM_UP, Baseline, Baselines
from rlhf_otel.records import Statistics

GENERATE, REUSE = StepKind.GENERATE, StepKind.REUSE
PLAIN = Signal("plain", "rlhf_plain", "1", "A signal.", baseline=True, relative_resolution=0.0)
DRIFTING = Signal("drifting", "rlhf_drifting", "1", "A signal.", baseline=True, drift=True)
NOT_FINITE = (math.nan, math.inf, -math.inf)

NUMBERS = st.floats(-1e6, 1e6)
SERIES = st.lists(NUMBERS, min_size=1, max_size=80)


def noise(count: int, level: float = 1.0, width: float = 0.1, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [generator.gauss(level, width) for _ in range(count)]


def fed(values: Iterable[float], baseline: Baseline | None = None) -> tuple[Baseline, list[Statistics]]:
    baseline = baseline or Baseline(0.0, 0.0)
    return baseline, [baseline.observe(value) for value in values]


def relative(statistics: Statistics) -> tuple[float | None, ...]:
    return statistics[1:]


# Warm-up and statistics


@given(st.lists(NUMBERS, min_size=WARM_UP, max_size=WARM_UP))
def test_nothing_relative_is_known_during_warm_up(values: list[float]) -> None:
    baseline, seen = fed(values, Baseline(0.1, 0.1, drift=True))
    assert all(relative(statistics) == (None,) * 6 for statistics in seen)
    assert all(math.isfinite(statistics.average) for statistics in seen)
    after = baseline.observe(1.0)
    assert None not in (after.baseline, after.zscore, after.shift, after.cusum)


def test_statistics_are_what_their_names_say() -> None:
    baseline, _ = fed([9.0, 11.0] * (WARM_UP // 2))
    mean, scale, average, reference = 10.0, baseline.scale, baseline.average, 10.0
    assert scale == pytest.approx(2.0 / 1.128, rel=1e-9)

    found = baseline.observe(14.0)
    fast = average + 2 / 11 * (14.0 - average)
    assert found.average == pytest.approx(fast)
    assert found.baseline == pytest.approx(mean)
    assert found.zscore == pytest.approx((14.0 - mean) / scale)
    assert found.ratio == pytest.approx(fast / mean)
    assert found.shift == pytest.approx((fast - mean) / scale)
    assert found.reference_ratio == pytest.approx(fast / reference)


@given(st.lists(st.floats(-100, 100), min_size=WARM_UP, max_size=60), NUMBERS)
def test_distances_are_measured_in_the_scale(values: list[float], value: float) -> None:
    baseline, _ = fed(values, Baseline(0.5, 0.2))
    mean, scale = baseline.mean, baseline.scale
    assert scale >= max(0.5, 0.2 * abs(mean))
    found = baseline.observe(value)
    assert found.zscore == pytest.approx((value - mean) / scale)
    assert found.shift == pytest.approx((found.average - mean) / scale)


def test_the_scale_of_independent_normal_values_is_their_deviation() -> None:
    baseline, _ = fed(noise(3000, 0.0, 2.0))
    assert baseline.scale == pytest.approx(2.0, rel=0.3)


def test_a_learning_trend_does_not_widen_the_scale() -> None:
    still, _ = fed(noise(500, width=0.01))
    trending, _ = fed(value + 0.005 * step for step, value in enumerate(noise(500, width=0.01)))
    assert trending.scale < 1.5 * still.scale


@pytest.mark.parametrize("level", [0.0, -3.0])
def test_ratios_to_what_is_not_positive_are_unknown(level: float) -> None:
    baseline, _ = fed(noise(100, level, 0.0))
    found = baseline.observe(level)
    assert found.ratio is None
    assert found.reference_ratio is None


@pytest.mark.parametrize("level", [0.0, 1e-9])
def test_the_resolution_stands_in_for_a_smaller_baseline(level: float) -> None:
    baseline, _ = fed([level] * 50, Baseline(0.02, 0.1))
    found = baseline.observe(0.01)
    assert found.zscore == pytest.approx(0.5, rel=1e-3), "rounding is no anomaly"
    assert found.ratio is not None
    assert found.ratio < 1


@given(SERIES, NUMBERS, NUMBERS)
def test_a_baseline_does_not_include_the_value_that_it_judges(
    before: list[float], one: float, other: float
) -> None:
    prefix = before + noise(WARM_UP)
    first, _ = fed(prefix)
    second, _ = fed(prefix)
    assert first.observe(one).baseline == second.observe(other).baseline


@given(SERIES, st.integers(-20, 20))
def test_a_change_of_unit_changes_no_distance(values: list[float], exponent: int) -> None:
    factor = 2.0**exponent
    prefix = noise(WARM_UP + 5)
    for one, other in zip(
        fed(prefix + values)[1], fed(factor * value for value in prefix + values)[1], strict=True
    ):
        assert one.zscore == other.zscore
        assert one.ratio == other.ratio
        assert one.shift == other.shift
        assert other.average == factor * one.average


# Outliers


@given(st.floats(-1e300, 1e300))
@example(1e300)
@example(-1e300)
def test_no_single_value_drags_a_baseline_along(outlier: float) -> None:
    baseline, _ = fed(noise(100))
    before, scale = baseline.mean, baseline.scale
    baseline.observe(outlier)
    assert abs(baseline.mean - before) <= scale
    assert baseline.scale <= 1.2 * scale


def test_a_train_of_outliers_is_not_learnt_until_patience_ends() -> None:
    baseline, _ = fed(noise(200))
    usual = baseline.mean
    zscores = [baseline.observe(50.0).zscore for _ in range(PATIENCE)]
    assert all(zscore is not None and zscore > 100 for zscore in zscores)
    assert baseline.mean == pytest.approx(usual, abs=0.2)

    fed(noise(WARM_UP + 100, 50.0), baseline)
    found = baseline.observe(50.0)
    assert found.baseline == pytest.approx(50.0, abs=0.2)
    assert found.zscore == pytest.approx(0.0, abs=4.0)
    assert found.reference_ratio is not None
    assert found.reference_ratio > 10, "the reference stays that of the first warm-up"


def test_one_value_that_returns_ends_a_train_of_outliers() -> None:
    baseline, _ = fed(noise(200))
    for _ in range(10):
        fed([50.0] * (PATIENCE // 2), baseline)
        fed(noise(1), baseline)
    assert baseline.mean == pytest.approx(1.0, abs=1.0)


def test_a_slow_trend_is_followed() -> None:
    values = [value + 0.01 * step for step, value in enumerate(noise(1000))]
    baseline, seen = fed(values)
    assert baseline.mean == pytest.approx(values[-1], abs=1.0)
    assert max(abs(found.zscore) for found in seen[WARM_UP:] if found.zscore is not None) < 30


# What is not finite


@given(SERIES, st.data())
def test_what_is_not_finite_is_as_if_it_had_not_been(values: list[float], data: st.DataObject) -> None:
    broken, sound = Baselines((DRIFTING,)), Baselines((DRIFTING,))
    for value in values:
        for bad in data.draw(st.lists(st.sampled_from(NOT_FINITE), max_size=2)):
            broken.observe(GENERATE, {"drifting": bad})
        assert broken.observe(GENERATE, {"drifting": value}) == sound.observe(GENERATE, {"drifting": value})
    assert broken.state() == sound.state()


@given(st.lists(st.floats(), max_size=150))
@example([1.7e308, -1.7e308] * 40)
@example([0.0, 9.9792015476736e291, -1.7976931348623157e308])
@example([0.0] * 30 + [1.7e308] * 3 + [0.0] * 30)
@settings(max_examples=200)
def test_no_series_of_floats_poisons_a_baseline(values: list[float]) -> None:
    baselines = Baselines((DRIFTING,))
    for value in values:
        baselines.observe(GENERATE, {"drifting": value})
    fed_after = noise(PATIENCE + 2 * WARM_UP)
    for value in fed_after:
        found = baselines.observe(GENERATE, {"drifting": value})["drifting"]
    assert not any(number is not None and math.isnan(number) for number in found)
    assert math.isfinite(found.average)
    assert found.baseline is not None
    assert math.isfinite(found.baseline)


# Kinds of step and signals


def test_kinds_of_step_have_baselines_of_their_own() -> None:
    baselines = Baselines((PLAIN,))
    for slow, fast in zip(noise(100, 10.0), noise(100, 1.0, seed=1), strict=True):
        of_generation = baselines.observe(GENERATE, {"plain": slow})["plain"]
        of_reuse = baselines.observe(REUSE, {"plain": fast})["plain"]
    assert of_generation.baseline == pytest.approx(10.0, abs=0.3)
    assert of_reuse.baseline == pytest.approx(1.0, abs=0.3)
    assert abs(of_reuse.zscore or 0.0) < 6


def test_a_step_that_lacks_a_signal_keeps_its_latest_statistics() -> None:
    baselines = Baselines((PLAIN, DRIFTING))
    before = baselines.observe(GENERATE, {"plain": 1.0})
    after = baselines.observe(REUSE, {"drifting": 2.0})
    assert after["plain"] == before["plain"]
    assert before.keys() == {"plain"}, "a snapshot of the step before does not change"


def test_signals_without_a_baseline_have_no_statistics() -> None:
    values = {signal.name: 1.0 for signal in SIGNALS} | {"unheard of": 1.0}
    found = Baselines().observe(GENERATE, values)
    assert found.keys() == {signal.name for signal in SIGNALS if signal.baseline}


# Memory and checkpoints


def test_memory_does_not_grow() -> None:
    baselines = Baselines()
    sizes = []
    for step, value in enumerate(noise(3000)):
        baselines.observe(GENERATE, dict.fromkeys(SIGNAL_BY_NAME, value))
        if step in (100, 2999):
            sizes.append(len(pickle.dumps(baselines.state())))
    assert sizes[1] <= 1.01 * sizes[0]


@given(st.lists(st.tuples(st.sampled_from(StepKind), NUMBERS), max_size=60), st.integers(0, 60))
def test_a_restored_baseline_goes_on_as_if_nothing_had_happened(
    steps: list[tuple[StepKind, float]], cut: int
) -> None:
    steps = [(GENERATE, value) for value in noise(WARM_UP)] + steps
    whole, first, second = (Baselines((PLAIN, DRIFTING)) for _ in range(3))
    for kind, value in steps[:cut]:
        whole.observe(kind, {"plain": value, "drifting": -value})
        first.observe(kind, {"plain": value, "drifting": -value})
    second.restore(json.loads(json.dumps(first.state())))
    for kind, value in steps[cut:]:
        values = {"plain": value, "drifting": -value}
        assert second.observe(kind, values) == whole.observe(kind, values)


def test_a_checkpoint_of_other_signals_leaves_ours_fresh() -> None:
    old = Baselines((PLAIN,))
    for value in noise(50):
        old.observe(GENERATE, {"plain": value})
    new = Baselines((DRIFTING, PLAIN))
    new.restore({**old.state(), "a kind of step that is no more": {}})
    found = new.observe(GENERATE, {"plain": 1.0, "drifting": 1.0})
    assert found["plain"].baseline is not None
    assert found["drifting"].baseline is None


def test_a_checkpoint_from_before_a_signal_had_a_drift_is_read() -> None:
    state = {kind: {"drifting": Baseline(0.0, 0.1).state()} for kind in StepKind}
    baselines = Baselines((DRIFTING,))
    baselines.restore(state)
    assert baselines.observe(GENERATE, {"drifting": 1.0})["drifting"].cusum is None
