"""What is usual: the 99th percentile of the latest steps of a kind, whatever came before them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.detection.usual_steps import WINDOW, UsualSteps

seconds = st.floats(0, 1e6)


@given(st.lists(seconds, min_size=2, max_size=3 * WINDOW))
def test_the_percentile_is_that_of_the_window(times: list[float]) -> None:
    usual = UsualSteps()
    for one in times:
        usual.observe("generate", one)
    latest = sorted(times[1:][-WINDOW:])
    assert usual.slowest_s == latest[math.ceil(0.99 * len(latest)) - 1]


def test_before_the_first_step_nothing_is_known() -> None:
    assert UsualSteps().slowest_s is None


def test_the_first_step_of_a_kind_counts_until_its_second() -> None:
    usual = UsualSteps()
    usual.observe("generate", 600.0)
    assert usual.slowest_s == 600.0
    usual.observe("reuse", 1.0)
    assert usual.slowest_s == 600.0
    usual.observe("generate", 5.0)
    assert usual.slowest_s == 5.0, "the slowest kind is what is usual"


@pytest.mark.parametrize(("slow", "expected"), [(2, 1.0), (3, 9.0)])
def test_two_slow_steps_of_a_window_are_not_usual(slow: int, expected: float) -> None:
    usual = UsualSteps()
    for number in range(WINDOW + 1):
        usual.observe("generate", 9.0 if 50 < number <= 50 + slow else 1.0)
    assert usual.slowest_s == expected


def test_what_is_kept_is_bounded() -> None:
    usual = UsualSteps()
    for number in range(10 * WINDOW):
        usual.observe("generate", number % 7)
    times = usual._times["generate"]
    assert len(times._latest) == len(times._sorted) == WINDOW
