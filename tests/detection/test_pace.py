"""Slow for its kind: longer than usual, and longer than its tokens explain."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.baselines import Baseline
from rlhf_otel.detection.pace import Pace
from rlhf_otel.records import StepRecord

SECOND = 1_000_000_000
USUAL_TOKENS = 4000.0


class Run:
    """Steps of one kind, judged as the pipeline has them judged."""

    def __init__(self, kind: StepKind = StepKind.GENERATE, pace: Pace | None = None) -> None:
        self.pace = pace or Pace()
        self._kind = kind
        self._durations = Baseline(0.0, 0.1)
        self._step = 0

    def step(self, seconds: float, tokens: float) -> bool:
        """Whether a step of this duration is slow."""
        self._step += 1
        record = StepRecord(self._step, 0.0, self._kind, 0, round(seconds * SECOND), 0, tokens=tokens)
        return self.pace.is_slow(record, self._durations.observe(record.duration_s))


fixed = st.floats(0.0, 20.0, allow_nan=False)
"""Seconds of a step that do not depend on its tokens."""
per_token = st.floats(1e-4, 1e-2)
seeds = st.integers(0, 2**32)


def lengths(chance: random.Random, spread: float) -> float:
    return USUAL_TOKENS * chance.lognormvariate(0.0, spread)


@settings(deadline=None)
@given(fixed, per_token, st.floats(0.05, 0.5), st.floats(1.0, 6.0), seeds)
def test_a_step_is_not_slow_that_only_has_more_tokens(
    base: float, each: float, spread: float, longer: float, seed: int
) -> None:
    chance, run = random.Random(seed), Run()
    for _ in range(60):
        tokens = lengths(chance, spread)
        run.step((base + each * tokens) * chance.uniform(0.98, 1.02), tokens)
    assert not run.step(base + each * longer * USUAL_TOKENS, longer * USUAL_TOKENS)


@settings(deadline=None)
@given(fixed, per_token, st.floats(0.0, 0.3), st.floats(0.3, 3.0), st.floats(3.0, 50.0), seeds)
def test_a_step_is_slow_that_takes_longer_than_its_tokens_explain(
    base: float, each: float, spread: float, length: float, delay: float, seed: int
) -> None:
    """By several times what usual and present tokens take, whatever their number."""
    chance, run = random.Random(seed), Run()
    for _ in range(60):
        tokens = lengths(chance, spread)
        run.step((base + each * tokens) * chance.uniform(0.98, 1.02), tokens)
    explained = base + each * max(1.0, length) * USUAL_TOKENS
    proportional = (base + each * USUAL_TOKENS) * max(1.0, length)
    assert run.step(explained + delay * proportional, length * USUAL_TOKENS)


def test_a_single_call_that_hangs_is_found_among_lengths_that_vary() -> None:
    chance, run = random.Random(1), Run()
    for _ in range(100):
        tokens = lengths(chance, 0.4)
        assert not run.step(1.0 + 1e-3 * tokens, tokens)
    assert not run.step(1.0 + 1e-3 * 12_000, 12_000), "3 times the tokens"
    assert run.step(1.0 + 1e-3 * 4000 + 12.0, 4000), "as many, and 12 s in a reward function"
    assert not run.step(1.0 + 1e-3 * 12_000, 12_000), "which has taught it nothing wrong"


def test_seconds_per_token_would_miss_what_a_fixed_part_hides() -> None:
    """Most of the step is no work on tokens: with ten times of them and seven times as long it takes fewer seconds for
    each."""
    chance, run = random.Random(2), Run()
    for _ in range(100):
        tokens = lengths(chance, 0.3)
        run.step(10.0 + 1e-4 * tokens, tokens)
    assert run.step(75.0, 10 * USUAL_TOKENS)
    assert not run.step(14.0, 10 * USUAL_TOKENS)


def test_where_lengths_never_varied_time_may_grow_with_them() -> None:
    run = Run()
    for _ in range(50):
        run.step(2.0, USUAL_TOKENS)
    assert not run.step(6.0, 3 * USUAL_TOKENS)
    assert run.step(12.0, 3 * USUAL_TOKENS)


@pytest.mark.parametrize("tokens", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_without_a_number_of_tokens_the_duration_decides(tokens: float) -> None:
    run = Run()
    assert not any(run.step(2.0, tokens) for _ in range(50))
    assert run.step(6.0, tokens)
    assert not run.step(2.5, tokens)


def test_a_short_step_is_not_slow_though_it_has_few_tokens() -> None:
    chance, run = random.Random(4), Run()
    for _ in range(100):
        tokens = lengths(chance, 0.3)
        run.step(0.1 + 1e-3 * tokens, tokens)
    assert not run.step(4.0, 100.0), "0.2 s are usual for those, and 4.1 s for a step"
    assert run.step(9.0, 100.0)


def test_nothing_is_slow_before_the_usual_is_known() -> None:
    run = Run()
    assert not any(run.step(seconds, USUAL_TOKENS) for seconds in (90.0, 1.0, 1.0, 50.0, 1.0))


def test_the_first_step_compiles_and_teaches_nothing() -> None:
    run = Run()
    run.step(300.0, USUAL_TOKENS)
    chance = random.Random(3)
    for _ in range(300):
        tokens = lengths(chance, 0.3)
        run.step(1.0 + 1e-3 * tokens, tokens)
    assert run.step(20.0, USUAL_TOKENS)


def test_a_step_that_did_not_end_is_not_judged() -> None:
    assert not Pace().is_slow(StepRecord(1, 0.0, StepKind.GENERATE, 0, SECOND, 0, tokens=5.0), None)


def test_kinds_have_a_pace_of_their_own() -> None:
    pace = Pace()
    generating, reusing = Run(StepKind.GENERATE, pace), Run(StepKind.REUSE, pace)
    for _ in range(50):
        generating.step(10.0, USUAL_TOKENS)
        reusing.step(1.0, USUAL_TOKENS)
    assert reusing.step(10.0, USUAL_TOKENS)
    assert not generating.step(10.0, USUAL_TOKENS)
