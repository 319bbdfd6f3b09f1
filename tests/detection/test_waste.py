"""What of a step's time was in vain, and what is said of it: each reason from both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.spans import StepKind, Waste
from rlhf_otel.detection.waste import WasteTotals, account
from rlhf_otel.exporters.journal_records import ledger_record, run_record, step_record
from rlhf_otel.records import PhaseInterval, RunIdentity, StepRecord
from rlhf_otel.sources.phases import PHASES

SECOND_NS = 10**9
NEVER_S = 1e9


def phase(name: str, start_s: float, end_s: float, parent: int = -1) -> PhaseInterval:
    start, end = int(start_s * SECOND_NS), int(end_s * SECOND_NS)
    return PhaseInterval(name, "", start, end, parent, end - start, False)


ROLLOUT = [
    phase("rollout", 0, 6),
    phase("generate", 0, 4, 0),
    phase("reward", 4, 5, 0),
    phase("reward_function", 4, 5, 2),
    phase("reward_function", 4, 4.5, 2),
    phase("loss", 6, 7),
    phase("forward", 6, 6.5, 5),
    phase("optimizer", 7, 7.5),
]
"""A step of 10 s: 6 of rollout, with two reward functions at once, and 1.5 of update."""


def step(phases: list[PhaseInterval] = ROLLOUT, seconds: float = 10.0, **values: float) -> StepRecord:
    return StepRecord(1, 0.0, StepKind.GENERATE, 0, int(seconds * SECOND_NS), 0, values, phases=phases)


def wasted(
    record: StepRecord, usual_s: float | None = 10.0, threshold_s: float = NEVER_S
) -> dict[str, float]:
    account(record, usual_s, threshold_s)
    return record.wasted


def test_a_rollout_is_in_vain_by_its_share_of_groups_without_gradient() -> None:
    record = step(zero_advantage_groups=0.25)
    assert wasted(record) == {Waste.NO_GRADIENT: pytest.approx(1.5)}
    assert record.rollout_s == pytest.approx(6.0)
    assert wasted(step(zero_advantage_groups=0.0)) == {}
    assert wasted(step()) == {}, "a trainer without groups"


def test_a_rollout_of_an_evaluation_is_none_of_training() -> None:
    record = step([phase("evaluation", 0, 5), phase("generate", 0, 4, 0), phase("generate", 6, 7)])
    record.values["zero_advantage_groups"] = 1.0
    assert wasted(record) == {Waste.NO_GRADIENT: pytest.approx(1.0)}


def test_an_update_that_is_lost_is_its_phases_and_not_the_rollout() -> None:
    record = step()
    record.update_lost = True
    assert wasted(record) == {Waste.LOST_UPDATE: pytest.approx(1.5)}


def test_a_stall_is_what_goes_beyond_the_usual_step() -> None:
    assert wasted(step(seconds=400.0), 10.0, 300.0) == {Waste.STALL: pytest.approx(390.0)}
    assert wasted(step(seconds=299.0), 10.0, 300.0) == {}


def test_no_stall_is_a_long_evaluation_a_checkpoint_or_the_first_step() -> None:
    for name in ("evaluation", "checkpoint"):
        assert wasted(step([phase(name, 0, 390)], seconds=400.0), 10.0, 300.0) == {}
    assert wasted(step(seconds=400.0), None, 300.0) == {}


nested = st.lists(
    st.tuples(st.sampled_from([one.name for one in PHASES]), st.integers(0, 9), st.integers(0, 9)), max_size=8
)


@given(nested, st.floats(0, 1), st.booleans())
def test_no_more_is_in_vain_than_there_was(
    drawn: list[tuple[str, int, int]], dead: float, lost: bool
) -> None:
    """Also where phases overlap and hang under each other in any way."""
    phases: list[PhaseInterval] = []
    for name, start, length in sorted(drawn, key=lambda one: one[1]):
        phases.append(phase(name, start, min(10, start + length), len(phases) - 1))
    record = step(phases, zero_advantage_groups=dead)
    record.update_lost = lost
    assert all(0 < seconds <= 10.0 for seconds in wasted(record).values())
    assert 0 <= record.rollout_s <= 10.0


# Sums, and what is said


def journalled(*records: StepRecord, lost_s: float = 0.0, gpus: int = 0) -> WasteTotals:
    totals = WasteTotals()
    totals.add_record({**run_record(RunIdentity("r"), {}), "lost_s": lost_s})
    for record in records:
        account(record, 10.0, NEVER_S)
        totals.add_record(step_record(record))
    totals.add_record(ledger_record({}, {}, gpus, 1))
    return totals


def test_a_run_says_what_was_in_vain() -> None:
    lost = step(zero_advantage_groups=0.5)
    lost.update_lost, lost.truncated_tokens = True, 1234.0
    assert list(journalled(lost, step(zero_advantage_groups=0.32), lost_s=80.0, gpus=4).sentences()) == [
        "41% of rollout time produced no gradient (4.9 s, 20 GPU-seconds)",
        "1.5 s, 6 GPU-seconds went into updates that were skipped or dropped",
        "80.0 s, 320 GPU-seconds were of an earlier attempt, after the checkpoint that was gone on from",
        "1,234 tokens were of completions that were cut off",
    ]


def test_a_run_in_which_nothing_was_in_vain_says_nothing() -> None:
    assert list(journalled(step(), step()).sentences()) == []
    assert list(WasteTotals().sentences()) == []


def test_a_continued_file_does_not_count_a_restart_again() -> None:
    totals = journalled(lost_s=80.0)
    totals.add_record({"type": "run", "lost_s": 80.0, "continued": True})
    assert totals.seconds == {Waste.RESTART: 80.0}
