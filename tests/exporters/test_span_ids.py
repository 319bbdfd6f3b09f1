"""Ids of spans: the same on every rank and in every process, and none twice."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from made_steps import GRPO_STEP, IDENTITY, build, phase, step

from rlhf_otel.exporters.span_tree import phase_span_id, root_span_id, span_id, trace_id


def test_trace_ids_stay_as_they_are() -> None:
    """Exemplars, pages and other ranks hold them: a change breaks links between versions."""
    assert f"{trace_id('run-7', 2, 42):032x}" == "c8a106addcc44d11240e66c46410a4cb"
    assert f"{root_span_id(trace_id('run-7', 2, 42)):016x}" == "6e9b15e176e61dbf"


def test_ids_are_the_same_in_another_process_and_need_no_sdk() -> None:
    program = (
        "import sys; from rlhf_otel.exporters.span_tree import *;"
        "t = trace_id('run-7', 2, 42); print(t, root_span_id(t), span_id(t, 3, 5));"
        "print(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    trace = trace_id("run-7", 2, 42)
    assert output.split() == [str(trace), str(root_span_id(trace)), str(span_id(trace, 3, 5)), "False"]


@given(
    st.text(), st.integers(0, 10**6), st.integers(-1, 10**9), st.integers(0, 10**5), st.integers(-1, 10**6)
)
def test_ids_are_valid_for_any_run(run_id: str, attempt: int, number: int, rank: int, index: int) -> None:
    trace = trace_id(run_id, attempt, number)
    assert 0 < trace < 2**128
    assert 0 < span_id(trace, rank, index) < 2**64


def test_a_phases_id_is_known_as_soon_as_it_has_begun() -> None:
    """Whoever begins a span or sends a request inside it names it as the parent."""
    trace = trace_id("run-7", 2, 42)
    for rank in (0, 3):
        _, *phases = build(step(GRPO_STEP), dataclasses.replace(IDENTITY, rank=rank))
        begun = [(interval.phase, interval.detail, interval.start_ns) for interval in GRPO_STEP]
        assert [span.context.span_id for span in phases] == [phase_span_id(trace, rank, *b) for b in begun]


def test_phases_that_began_at_once_have_ids_of_their_own() -> None:
    """A coarse clock may say the same twice."""
    alike = [phase("reward_function", 7, 8, detail="judge") for _ in range(50)]
    spans = build(step(alike))
    assert len({span.context.span_id for span in spans}) == 51


def test_ids_differ_by_run_attempt_and_step() -> None:
    ids = {trace_id(run, attempt, number) for run in ("a", "a1") for attempt in (1, 11) for number in (1, 11)}
    assert len(ids) == 8


def test_lone_surrogates_in_a_run_id_are_no_obstacle() -> None:
    assert trace_id("run-\udcff", 1, 1) != trace_id("run-", 1, 1)


def test_ranks_share_trace_and_root() -> None:
    ranks = [build(step(GRPO_STEP), dataclasses.replace(IDENTITY, rank=rank)) for rank in range(3)]
    spans = [span for rank in ranks for span in rank]
    assert len({span.context.trace_id for span in spans}) == 1
    assert len({span.context.span_id for span in spans}) == len(spans)
    assert [span for span in spans if span.parent is None] == [ranks[0][0]]
    root = ranks[0][0].context.span_id
    assert [rank[0].parent.span_id for rank in ranks[1:]] == [root, root]
    assert [rank[0].attributes["rlhf.rank"] for rank in ranks] == [0, 1, 2]
