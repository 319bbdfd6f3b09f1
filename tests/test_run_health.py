"""Health of a run as its pipeline tells it: well, stalled, failed, and scored at each step."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from judged_steps import NAN, a_pipeline, health, observe, record

from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.records import OpenPhase


def test_health_of_a_run() -> None:
    of = a_pipeline()
    assert health(of) == (True, "ok: step 0")
    observe(of, record(1, loss=0.5))
    assert health(of) == (True, "ok: step 1")
    observe(of, record(2, loss=NAN))
    well, reason = health(of)
    assert not well
    assert "non-finite loss at step 2" in reason


def test_health_is_scored_at_each_step_and_written_where_it_changes(tmp_path: Path) -> None:
    of = a_pipeline(tmp_path)
    observe(of, *(record(step, loss=0.5, grad_norm=1.0) for step in range(1, 6)))
    assert of.snapshot.health.overall == 1.0
    assert of.snapshot.health.aspects == {"stability": 1.0}
    observe(of, record(6, loss=NAN))
    assert of.snapshot.health.overall == 0.0
    told = [found for found in read_journal(tmp_path) if found["type"] == "health"]
    assert [(found["step"], found["overall"]) for found in told] == [(1, 1.0), (6, 0.0)]
    assert told[-1]["aspects"] == {"stability": 0.0}
    assert 0 < told[-1]["coverage"] < 0.5, "most of GRPO's rules had nothing to judge"


def test_a_step_that_failed_counts_in_the_health() -> None:
    of = a_pipeline()
    observe(of, record(1, loss=0.5))
    of.failed_step(record(2, loss=NAN))
    assert of.snapshot.health.aspects["stability"] == 0.0


def test_other_ranks_have_no_health() -> None:
    of = a_pipeline(rank=1)
    observe(of, record(1, loss=0.5))
    assert of.snapshot.health.overall is None


def test_a_run_without_steps_for_long_has_stalled() -> None:
    of = a_pipeline(stall_floor_s=30.0)
    observe(of, record(1, loss=0.5))
    of.snapshot = of.snapshot._replace(time_s=time.time() - 31.0)
    well, reason = health(of)
    assert not well
    assert "stalled" in reason
    assert "after step 1" in reason
    assert health(of, 40.0)[0], "it is told that it may take longer"
    assert health(of, 30.0, OpenPhase("reward", 29.0))[1].endswith("after step 1, in reward for 29 s")


@pytest.mark.parametrize(
    ("outcome", "well"), [(Outcome.FINISHED, True), (Outcome.INTERRUPTED, True), (Outcome.FAILED, False)]
)
def test_an_ended_run_is_well_unless_it_failed(outcome: Outcome, well: bool) -> None:
    of = a_pipeline()
    observe(of, record(1, loss=NAN))
    of.end(outcome, "because")
    assert health(of) == (well, f"run {outcome} at step 1: because")


def test_an_early_stall_is_in_vain_too() -> None:
    """Before there is a baseline; a first step that is long may compile."""
    of = a_pipeline(stall_floor_s=5.0)
    observe(of, record(1, 100.0), record(2, 1.0), record(3, 1.0))
    assert of.snapshot.wasted == {}
    observe(of, record(4, 31.0))
    assert of.snapshot.wasted == {"stall": pytest.approx(30.0)}
