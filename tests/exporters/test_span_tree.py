"""Span trees: parents, times, links and bounds."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from made_steps import GRPO_STEP, IDENTITY, RESOURCE, UNIX_END, build, phase, step
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.trace import INVALID_SPAN_CONTEXT

from rlhf_otel.exporters import span_tree
from rlhf_otel.exporters.span_tree import (
    MAX_PHASES,
    MAX_ROLLOUT_LINKS,
    build_run_span,
    phase_parents,
    run_trace_id,
    trace_id,
)
from rlhf_otel.records import PhaseInterval, Rollouts, StepRecord


def parent_names(spans: list[Any]) -> dict[str, str]:
    names = {span.context.span_id: span.name for span in spans}
    return {span.name: names[span.parent.span_id] if span.parent else "" for span in spans}


# --- tree --------------------------------------------------------------------------------------------------


def test_names_parents_and_times_of_a_step() -> None:
    spans = build(step(GRPO_STEP))
    assert parent_names(spans) == {
        "rlhf.step": "",
        "rlhf.rollout": "rlhf.step",
        "rlhf.generate": "rlhf.rollout",
        "rlhf.reward": "rlhf.rollout",
        "rlhf.reward_function": "rlhf.reward",
        "rlhf.loss": "rlhf.step",
    }
    times = {
        span.name: (span.start_time - UNIX_END + 10_000, span.end_time - UNIX_END + 10_000) for span in spans
    }
    assert times["rlhf.step"] == (0, 10_000)
    assert times["rlhf.reward_function"] == (3_600, 4_600)


@st.composite
def nested_phases(draw: st.DrawFn) -> tuple[list[PhaseInterval], int]:
    """Any phases that nest, listed as they began or as they ended, and the step's end."""
    end = draw(st.integers(1, 10**12))
    intervals = [(0, end, -1)]
    for _ in range(draw(st.integers(0, 25))):
        above = draw(st.integers(0, len(intervals) - 1))
        begin = draw(st.integers(intervals[above][0], intervals[above][1]))
        intervals.append((begin, draw(st.integers(begin, intervals[above][1])), above))
    order = draw(st.permutations(range(1, len(intervals))))
    place = {0: -1} | {old: new for new, old in enumerate(order)}
    return [phase("loss", intervals[i][0], intervals[i][1], place[intervals[i][2]]) for i in order], end


@given(nested_phases(), st.integers(0, 1))
def test_children_lie_within_their_parents_and_there_is_one_root(
    nested: tuple[list[PhaseInterval], int], rank: int
) -> None:
    phases, end = nested
    first, *rest = build(step(phases, end=end), dataclasses.replace(IDENTITY, rank=rank))
    assert (first.parent is None) == (rank == 0)
    spans = {span.context.span_id: span for span in (first, *rest)}
    assert len(spans) == len(phases) + 1
    for span in rest:
        above = spans[span.parent.span_id]
        assert above.start_time <= span.start_time <= span.end_time <= above.end_time


@given(st.lists(st.tuples(st.integers(-3, 12), st.integers(0, 50), st.integers(-50, 50)), max_size=10))
def test_any_parents_at_all_make_one_tree(rows: list[tuple[int, int, int]]) -> None:
    phases = [phase("loss", start, start + length, parent) for parent, start, length in rows]
    for index, parent in enumerate(parents := phase_parents(phases)):
        walked = 0
        while parent != -1:
            parent, walked = parents[parent], walked + 1
            assert walked <= len(phases), f"phase {index} is its own ancestor"
    spans = build(step(phases))
    assert sum(span.parent is None for span in spans) == 1
    assert all(span.start_time <= span.end_time for span in spans)
    encode_spans(spans)


def test_a_parent_that_exists_is_kept_whatever_is_wrong_elsewhere() -> None:
    phases = [phase("loss", 0, 9, 1), phase("loss", 0, 9, 0), phase("loss", 0, 9, 99), phase("loss", 0, 9, 1)]
    assert phase_parents(phases)[2:] == [-1, 1]
    assert sorted(phase_parents(phases)[:2]) in ([-1, 0], [-1, 1])


def test_the_longest_phases_are_kept_and_hang_under_what_is_left() -> None:
    calls = [phase("reward_function", 100 + i, 101 + i, parent=1) for i in range(2_000)]
    phases = [
        phase("rollout", 0, 5_000),
        phase("reward", 0, 1, parent=0),
        *calls[:-1],
        phase("data", 0, 90, 1),
    ]
    spans = build(step(phases))
    assert len(spans) == MAX_PHASES + 1
    assert parent_names(spans)["rlhf.data"] in ("rlhf.reward", "rlhf.rollout")
    short = [phase("rollout", 0, 5_000), phase("reward", 0, 0, parent=0), *calls]
    assert parent_names(build(step(short)))["rlhf.reward_function"] == "rlhf.rollout"


@settings(max_examples=5, deadline=None)
@given(st.integers(50_000, 100_000))
def test_a_hundred_thousand_reward_calls_stay_bounded(calls: int) -> None:
    phases = [phase("reward", 0, calls)] + [phase("reward_function", i, i + 1, 0) for i in range(calls)]
    assert len(build(step(phases))) == MAX_PHASES + 1


# --- links -------------------------------------------------------------------------------------------------


def test_the_run_links_to_the_span_around_it() -> None:
    around = span_tree.context_of(5, 6)
    run: Any = build_run_span(IDENTITY, 1, 2, RESOURCE, around)
    assert [link.context for link in run.links] == [around]
    for nothing in (None, INVALID_SPAN_CONTEXT):
        assert not build_run_span(IDENTITY, 1, 2, RESOURCE, nothing).links


def test_steps_link_to_the_run_span() -> None:
    run: Any = build_run_span(IDENTITY, 1, 2, RESOURCE)
    assert (run.name, run.start_time, run.end_time, run.parent) == ("rlhf.run", 1, 2, None)
    assert run.context.trace_id == run_trace_id("run-7", 2)
    for rank in (0, 1):
        (link,) = build(step([]), dataclasses.replace(IDENTITY, rank=rank))[0].links
        assert (link.context.trace_id, link.context.span_id) == (run.context.trace_id, run.context.span_id)


def links_of(record: StepRecord) -> list[tuple[int, dict[str, int]]]:
    """Target and attributes of the links to rollouts."""
    told = [(link.context.trace_id, dict(link.attributes or {})) for link in build(record)[0].links]
    return [(target, attributes) for target, attributes in told if "rl.sync.staleness" in attributes]


def test_rollouts_are_linked_to_the_step_or_run_that_their_weights_are_of() -> None:
    record = step([])
    record.rollouts = [Rollouts(41, 3), Rollouts(38, 2), Rollouts(30, 1, inherited=True)]
    assert links_of(record) == [
        (
            trace_id("run-7", 2, 41),
            {"rl.sync.staleness": 0, "rl.sync.weights_step": 41, "rl.sample.count": 3},
        ),
        (
            trace_id("run-7", 2, 38),
            {"rl.sync.staleness": 3, "rl.sync.weights_step": 38, "rl.sample.count": 2},
        ),
        (
            run_trace_id("run-7", 2),
            {"rl.sync.staleness": 11, "rl.sync.weights_step": 30, "rl.sample.count": 1},
        ),
    ]


def test_links_to_rollouts_are_bounded() -> None:
    record = step([])
    record.rollouts = [Rollouts(41 - age, 1) for age in range(40)]
    assert [told["rl.sync.staleness"] for _, told in links_of(record)] == list(range(MAX_ROLLOUT_LINKS))
