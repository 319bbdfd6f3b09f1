"""Statistics of an epoch, and trends that are told from noise."""

from __future__ import annotations

import math
import random
import statistics
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.detection.epochs import FEWEST_POINTS, MOST_BUCKETS, Course, Epochs

FINITE = st.floats(-1e6, 1e6)


def summary(values: list[float]) -> dict[str, object]:
    epochs = Epochs()
    for step, value in enumerate(values, 1):
        epochs.observe(0.5, step, {"reward": value})
    said = epochs.end()
    assert said is not None
    return said["signals"]["reward"]


def autocorrelated(rng: random.Random, steps: int, memory: float = 0.8) -> list[float]:
    values = [0.0]
    for _ in range(steps - 1):
        values.append(memory * values[-1] + rng.gauss(0, 1))
    return values


@given(st.lists(FINITE, min_size=2, max_size=300))
def test_mean_deviation_least_and_largest_are_exact(values: list[float]) -> None:
    said = summary(values)
    scale = max(abs(value) for value in values) + 1

    assert said["count"] == len(values)
    assert said["mean"] == pytest.approx(statistics.fmean(values), abs=1e-9 * scale)
    assert said["std"] == pytest.approx(statistics.stdev(values), abs=1e-5 * scale)
    assert (said["min"], said["max"]) == (min(values), max(values))


@pytest.mark.parametrize("steps", [20, 63, 64, 65, 500, 5000])
@pytest.mark.parametrize("slope", [0.01, -0.5, 3.0])
def test_a_line_is_found_whatever_its_length_and_level(steps: int, slope: float) -> None:
    said = summary([1e6 + slope * step for step in range(steps)])

    assert said["slope"] == pytest.approx(slope, rel=1e-6)
    assert said["p"] < 1e-3
    assert said["trend"] == ("rising" if slope > 0 else "falling")


@given(st.floats(-1e6, 1e6), st.integers(FEWEST_POINTS, 200))
def test_a_constant_is_stable(value: float, steps: int) -> None:
    said = summary([value] * steps)

    assert (said["slope"], said["trend"], said["std"]) == (0.0, "stable", 0.0)


def test_noise_is_stable_and_a_trend_in_noise_is_not() -> None:
    noise, drifting = 0, 0
    for seed in range(200):
        rng = random.Random(seed)
        values = [rng.gauss(0, 1) for _ in range(150)]
        noise += summary(values)["trend"] != "stable"
        drifting += summary([value + 0.01 * step for step, value in enumerate(values)])["trend"] == "rising"

    assert noise <= 8, "significance is one in a hundred"
    assert drifting >= 180


def test_what_neighbours_share_is_no_trend() -> None:
    found = [summary(autocorrelated(random.Random(seed), 400))["trend"] for seed in range(200)]

    assert sum(trend != "stable" for trend in found) <= 20


def test_few_values_have_no_trend() -> None:
    assert summary([float(step) for step in range(FEWEST_POINTS - 1)])["trend"] is None


def test_memory_does_not_grow_with_the_epoch() -> None:
    course = Course(0.0)
    for step in range(20 * MOST_BUCKETS):
        course.observe(step, math.sin(step))
    small = sys.getsizeof(course._points)
    for step in range(20 * MOST_BUCKETS, 400 * MOST_BUCKETS):
        course.observe(step, math.sin(step))

    assert len(course._points) <= MOST_BUCKETS
    assert sys.getsizeof(course._points) <= 2 * small


def test_epochs_end_where_they_do() -> None:
    epochs = Epochs()
    ended = [
        epochs.observe(step / 4, step, {"reward": float(step), "kl": math.nan, "gone": None})
        for step in range(1, 11)
    ]

    assert [summary["epoch"] for summary in ended if summary] == [0, 1]
    assert [ended.index(summary) + 1 for summary in ended if summary] == [5, 9], (
        "with the first step of the next"
    )
    first = ended[4]
    assert first is not None
    assert (first["first_step"], first["step"], first["steps"]) == (1, 4, 4)
    assert first["signals"].keys() == {"reward"}
    last = epochs.end()
    assert last is not None
    assert (last["epoch"], last["first_step"], last["step"]) == (2, 9, 10)
    assert epochs.end() is None


@given(st.lists(st.none() | st.floats(), min_size=2, max_size=100))
def test_steps_without_a_finite_value_are_left_out(values: list[float | None]) -> None:
    epochs = Epochs()
    same: dict[str, float | None] = {}
    for step, value in enumerate(values, 1):
        same["reward"] = value
        epochs.observe(0.5, step, same)
    finite = [value for value in values if value is not None and math.isfinite(value)]
    said = epochs.end()

    assert said is not None
    assert said["steps"] == len(values)
    found = {name: (one["count"], one["min"], one["max"]) for name, one in said["signals"].items()}
    assert found == ({"reward": (len(finite), min(finite), max(finite))} if finite else {})


def test_epochs_of_a_single_step_are_not_repeated() -> None:
    epochs = Epochs()
    assert [epochs.observe(float(step), step, {"reward": 1.0}) for step in range(1, 5)] == [None] * 4
    assert epochs.end() is None
