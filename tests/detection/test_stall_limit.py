"""How long a step may take: a usual one, and what is none."""

from __future__ import annotations

import pytest

from rlhf_otel.detection.stall_limit import Absorbed, StallLimits
from rlhf_otel.records import OpenPhase, Snapshot

FLOOR_S, PATIENCE_S = 60.0, 1800.0


def limits(*times: float) -> StallLimits:
    found = StallLimits(FLOOR_S, 3.0, PATIENCE_S)
    for seconds in times:
        found.observe("generate", seconds, last=False)
    return found


def now_s(of: StallLimits, before_s: float, absorbed: Absorbed, open_phase: OpenPhase | None) -> float:
    """After a step by whose end evaluations and checkpoints had taken ``before_s``."""
    return of.now_s(Snapshot(stall_threshold_s=of.step_s, absorbed_s=before_s), absorbed, open_phase)


def test_a_step_may_take_a_multiple_of_the_usual_one_and_never_less_than_the_floor() -> None:
    assert limits(100.0, 5.0).step_s == FLOOR_S
    assert limits(100.0, 5.0, 40.0).step_s == 120.0


def test_the_first_step_may_compile_and_after_the_last_one_models_are_loaded() -> None:
    assert limits().step_s == PATIENCE_S
    of = limits(5.0, 5.0)
    of.observe("generate", 5.0, last=True)
    assert of.step_s == PATIENCE_S
    of.observe("generate", 5.0, last=False)
    assert of.step_s == FLOOR_S, "more steps came than were planned"


def test_a_floor_above_the_patience_counts_for_all() -> None:
    assert StallLimits(5000.0, 3.0, PATIENCE_S).step_s == 5000.0


def test_one_stall_does_not_hide_the_next_and_a_slower_run_is_taken_as_it_is() -> None:
    of = limits(5.0, 5.0)
    of.observe("generate", 7200.0, last=False)
    assert of.step_s == 3 * FLOOR_S
    told = 0
    for _ in range(10):
        told += of.step_s < 7200.0
        of.observe("generate", 7200.0, last=False)
    assert of.step_s == 3 * 7200.0
    assert told == 4


EVALUATING = OpenPhase("evaluation", 1000.0)


@pytest.mark.parametrize(
    ("absorbed", "open_phase", "expected"),
    [
        (Absorbed(500.0), OpenPhase("reward", 50.0), FLOOR_S),
        (Absorbed(500.0), None, FLOOR_S),
        (Absorbed(1500.0), EVALUATING, FLOOR_S + PATIENCE_S),
        (Absorbed(1500.0, {"evaluation": 300.0, "checkpoint": 9e9}), EVALUATING, FLOOR_S + PATIENCE_S),
        (Absorbed(1500.0, {"evaluation": 3000.0}), EVALUATING, FLOOR_S + 9000.0),
        (Absorbed(1540.0), EVALUATING, FLOOR_S + 40.0 + PATIENCE_S),
        (Absorbed(1500.0), OpenPhase("generate", 3.0), FLOOR_S + 1000.0),
        (Absorbed(499.99), OpenPhase("checkpoint", 0.0), FLOOR_S + PATIENCE_S),
    ],
    ids=[
        "no evaluation",
        "nothing open",
        "in an evaluation",
        "longest is short",
        "longest is long",
        "in one after a checkpoint",
        "after an evaluation",
        "looked a moment apart",
    ],
)
def test_evaluations_and_checkpoints_come_on_top(
    absorbed: Absorbed, open_phase: OpenPhase | None, expected: float
) -> None:
    assert now_s(limits(5.0, 5.0), 500.0, absorbed, open_phase) == pytest.approx(expected)


def test_an_evaluation_that_hangs_reaches_its_limit() -> None:
    of = limits(5.0, 5.0)

    def taken_and_limit(hanging_s: float) -> tuple[float, float]:
        return hanging_s, now_s(of, 0.0, Absorbed(hanging_s), OpenPhase("evaluation", hanging_s))

    taken, limit = taken_and_limit(PATIENCE_S)
    assert taken < limit
    taken, limit = taken_and_limit(PATIENCE_S + FLOOR_S + 1)
    assert taken > limit
