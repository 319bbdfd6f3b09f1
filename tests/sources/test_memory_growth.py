"""Growth with the steps is told from jumps, saw-teeth and noise."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.sources.memory_growth import MIN_POINTS, START_UP_STEPS, StepGrowth, cautious_slope

MIB = 2**20
BASE = 400 * MIB


def growth(value: Callable[[int], float], steps: int = 150) -> float | None:
    """The growth after so many steps with a sample each."""
    observed = StepGrowth()
    found = None
    for step in range(1, steps + 1):
        found = observed.add(step, int(value(step)))
    return found


def test_a_leak_is_growth() -> None:
    found = growth(lambda step: BASE + 8 * MIB * step)
    assert found is not None
    assert found > 0.3


@pytest.mark.parametrize(
    "value",
    [
        lambda step: BASE,
        lambda step: BASE * (3 if step > 80 else 1),
        lambda step: BASE * (0.5 if step > 80 else 1),
        lambda step: BASE + 200 * MIB * (step % 10) / 10,
        lambda step: BASE + random.Random(step).random() * 50 * MIB,
        lambda step: BASE + 20 * MIB * min(step, START_UP_STEPS),
    ],
    ids=["steady", "jump up", "jump down", "saw-tooth", "noise", "start-up"],
)
def test_what_does_not_go_on_is_none(value: Callable[[int], float]) -> None:
    found = growth(value)
    assert found is not None
    assert found < 0.15


def test_a_leak_that_begins_late_is_found_within_forty_steps() -> None:
    found = growth(lambda step: BASE + 8 * MIB * max(0, step - 300), steps=340)
    assert found is not None
    assert found > 0.15


def test_nothing_is_known_at_first() -> None:
    observed = StepGrowth()
    known = [observed.add(step, BASE) is not None for step in range(1, 100)]
    assert not any(known[: START_UP_STEPS + MIN_POINTS])
    assert known[-1]


@given(st.floats(-1e6, 1e6), st.integers(3, 31))
def test_the_slope_of_a_line_is_its_slope(slope: float, count: int) -> None:
    points = [(round(slope * 10 * at), 10.0 * at) for at in range(count)]
    assert cautious_slope(points) == pytest.approx(slope, abs=0.2, rel=1e-6)
