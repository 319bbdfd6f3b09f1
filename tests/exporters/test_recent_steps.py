"""Records of the last steps: given out once, and bounded in number and in memory."""

from __future__ import annotations

import tracemalloc

from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.recent_steps import MAX_PHASES_HELD, RecentSteps
from rlhf_otel.records import PhaseInterval, StepRecord


def record(step: int, phases: int = 0) -> StepRecord:
    found = StepRecord(step, 0.0, StepKind.GENERATE, step * 10**9, step * 10**9 + 100, 10**18 + step)
    begin = step * 10**9
    found.phases = [
        PhaseInterval(
            "reward_function", "judge", begin + 1000 * i, begin + 1000 * i + 500, -1, 500 + i, False
        )
        for i in range(phases)
    ]
    return found


def filled(recent: RecentSteps, steps: range, phases: int = 0) -> RecentSteps:
    for step in steps:
        recent.add(record(step, phases), given_out=False)
    return recent


def test_a_step_is_given_out_once() -> None:
    recent = filled(RecentSteps(4), range(1, 4))
    taken = recent.take(2)
    assert taken is not None
    assert taken.step == 2
    assert recent.take(2) is None
    assert recent.knows(2), "given out is not forgotten"
    assert [kept.step for kept in recent.take_last(4)] == [1, 3]


def test_the_oldest_make_room() -> None:
    recent = filled(RecentSteps(3), range(1, 6))
    assert [step for step in range(1, 7) if recent.knows(step)] == [3, 4, 5]
    assert recent.take(2) is None


def test_steps_of_many_phases_are_fewer() -> None:
    recent = filled(RecentSteps(64, phases=100), range(1, 21), phases=30)
    assert [step for step in range(1, 21) if recent.knows(step)] == [18, 19, 20]


def test_what_was_given_out_takes_no_room() -> None:
    recent = RecentSteps(64, phases=100)
    for step in range(1, 21):
        recent.add(record(step, 30), given_out=step % 2 == 0)
    assert [kept.step for kept in recent.take_last(64)] == [15, 17, 19]


def test_a_step_of_more_phases_than_may_be_held_is_not() -> None:
    recent = filled(RecentSteps(64, phases=100), range(1, 2), phases=101)
    assert not recent.knows(1)


def test_nothing_is_remembered_where_nothing_may_be() -> None:
    assert filled(RecentSteps(0), range(1, 5)).take_last(3) == []


def test_memory_is_what_the_documentation_says() -> None:
    tracemalloc.start()
    try:
        recent = filled(RecentSteps(64), range(1, 201), phases=1000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(recent.take_last(64)) == MAX_PHASES_HELD // 1000
    assert held < 6 << 20
