"""Span trees: ids, times, parents, attributes, events and status."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import INVALID_SPAN_CONTEXT, StatusCode

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters import span_tree
from rlhf_otel.exporters.span_tree import (
    MAX_PHASES,
    MAX_ROLLOUT_LINKS,
    build_run_span,
    build_spans,
    phase_parents,
    phase_span_id,
    resource_attributes,
    root_span_id,
    run_trace_id,
    span_id,
    trace_id,
)
from rlhf_otel.records import Anomaly, DeviceTimes, PhaseInterval, Rollouts, RunIdentity, StepRecord

RESOURCE = Resource({})
IDENTITY = RunIdentity("run-7", attempt=2)
UNIX_END = 1_760_000_000_000_000_000


def phase(
    name: str, start: int, end: int, parent: int = -1, detail: str = "", failed: bool = False
) -> PhaseInterval:
    return PhaseInterval(name, detail, start, end, parent, end - start, failed)


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


def test_device_times_are_on_the_phases_that_have_them() -> None:
    record = step([phase("loss", 0, 500), phase("backward", 500, 600), phase("backward", 700, 800)])
    record.device = DeviceTimes()
    assert not any("rlhf.phase.device_seconds" in span.attributes for span in build(record))
    record.device.seconds = {("loss", "", 0): 0.5, ("backward", "", 700): 0.25}
    found = [span.attributes.get("rlhf.phase.device_seconds") for span in build(record)]
    assert found == [None, 0.5, None, 0.25]


def test_tokens_are_told_where_they_are_known() -> None:
    record = step([])
    assert "rl.sample.tokens" not in build(record)[0].attributes
    record.tokens = 5760.0
    assert build(record)[0].attributes["rl.sample.tokens"] == 5760.0


def step(
    phases: list[PhaseInterval], values: dict[str, float] | None = None, end: int = 10_000
) -> StepRecord:
    return StepRecord(42, 0.5, StepKind.GENERATE, 0, end, UNIX_END, values or {}, phases=phases)


def anomaly(severity: Severity = Severity.CRITICAL, value: float = 3.0) -> Anomaly:
    return Anomaly(
        "NonFinite",
        severity,
        "loss",
        value,
        0.5,
        None,
        "value",
        value,
        42,
        42,
        UNIX_END - 5,
        "cause",
        "remedy",
    )


def build(
    record: StepRecord,
    identity: RunIdentity = IDENTITY,
    anomalies: tuple[Anomaly, ...] = (),
    kept_because: str = "slow",
) -> list[Any]:  # the SDK types whatever a span could lack as optional; ours lack nothing
    return build_spans(record, identity, anomalies, kept_because, RESOURCE)


GRPO_STEP = [
    phase("rollout", 1_000, 6_000),
    phase("generate", 1_200, 3_000, parent=0, detail="vLLM.generate"),
    phase("reward", 3_500, 5_500, parent=0),
    phase("reward_function", 3_600, 4_600, parent=2, detail="length_reward"),
    phase("loss", 6_500, 9_000),
]


def parent_names(spans: list[Any]) -> dict[str, str]:
    names = {span.context.span_id: span.name for span in spans}
    return {span.name: names[span.parent.span_id] if span.parent else "" for span in spans}


# --- ids ---------------------------------------------------------------------------------------------------


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


# --- attributes, events, status ----------------------------------------------------------------------------


def test_step_attributes() -> None:
    span = build(step([], {"loss": 0.25, "kl_per_token": 0.01, "reward": 1.5, "entropy": 3.0}))[0]
    assert dict(span.attributes) == {
        "rl.train.step": 42,
        "rlhf.step.kind": "generate",
        "rlhf.rank": 0,
        "rlhf.trace.kept_because": "slow",
        "rl.train.loss": 0.25,
        "rl.train.kl": 0.01,
        "rl.reward.mean": 1.5,
    }
    assert span.instrumentation_scope.name == "rlhf_otel"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_left_out_and_the_rest_stays(bad: float) -> None:
    span = build(step([], {"loss": bad, "reward": 1.5}), anomalies=(anomaly(value=bad),))[0]
    assert "rl.train.loss" not in span.attributes
    assert span.attributes["rl.reward.mean"] == 1.5
    assert "rlhf.anomaly.value" not in span.events[0].attributes
    assert span.events[0].attributes["rlhf.anomaly.baseline"] == 0.5


def test_phase_attributes() -> None:
    spans = {span.name: dict(span.attributes) for span in build(step(GRPO_STEP))}
    assert spans["rlhf.rollout"] == {"rlhf.phase": "rollout", "rlhf.phase.scope": "collective"}
    assert spans["rlhf.generate"] == {
        "rlhf.phase": "generate",
        "rlhf.phase.scope": "local",
        "rlhf.phase.detail": "vLLM.generate",
    }
    assert spans["rlhf.reward_function"]["rl.reward.function"] == "length_reward"


def test_the_scope_of_a_phase_is_that_of_its_run() -> None:
    server = dataclasses.replace(IDENTITY, collective_phases=("generate",))
    spans = {span.name: span.attributes for span in build(step(GRPO_STEP), identity=server)}
    assert spans["rlhf.generate"]["rlhf.phase.scope"] == "collective"
    assert spans["rlhf.reward_function"]["rlhf.phase.scope"] == "local"


def test_a_phase_that_the_catalogue_does_not_know_has_no_scope() -> None:
    assert dict(build(step([phase("mystery", 0, 1)]))[1].attributes) == {"rlhf.phase": "mystery"}


@pytest.mark.parametrize("detail", ["lone \udcff surrogate", "x" * 100_000, "奖励函数", "nul \0"])
def test_any_reward_function_name_can_be_sent(detail: str, caplog: pytest.LogCaptureFixture) -> None:
    spans = build(step([phase("reward_function", 0, 1, detail=detail)]))
    encoded = encode_spans(spans).SerializeToString()
    assert len(encoded) < 4_000
    assert b"rl.reward.function" in encoded
    assert not caplog.records


def test_what_is_done_about_an_anomaly_is_an_attribute_of_its_event() -> None:
    answered = dataclasses.replace(anomaly(), actions=("webhook", "stop"))
    span = build(step(GRPO_STEP), anomalies=(answered,))[0]
    assert span.events[0].attributes["rlhf.anomaly.actions"] == ("webhook", "stop")
    assert encode_spans([span]), "a collector gets it as an array"


def test_anomalies_are_events_of_the_step() -> None:
    span = build(step(GRPO_STEP), anomalies=(anomaly(),))[0]
    (event,) = span.events
    assert (event.name, event.timestamp) == ("rlhf.anomaly", UNIX_END - 5)
    assert dict(event.attributes) == {
        "rlhf.anomaly.rule": "NonFinite",
        "rlhf.anomaly.severity": "critical",
        "rlhf.anomaly.signal": "loss",
        "rlhf.anomaly.value": 3.0,
        "rlhf.anomaly.baseline": 0.5,
    }


def test_a_critical_anomaly_makes_the_step_an_error() -> None:
    status = build(step([]), anomalies=(anomaly(),))[0].status
    assert (status.status_code, status.description) == (StatusCode.ERROR, "NonFinite")


def test_a_warning_does_not_make_the_step_an_error() -> None:
    assert build(step([]), anomalies=(anomaly(Severity.WARNING),))[0].status.status_code is StatusCode.UNSET


def test_a_failed_phase_is_an_error_and_so_is_its_step() -> None:
    phases = [
        phase("reward", 0, 9, failed=True),
        phase("reward_function", 1, 8, 0, "broken", True),
        phase("data", 0, 0),
    ]
    statuses = {span.name: span.status for span in build(step(phases))}
    assert statuses["rlhf.step"].description == "reward raised; reward_function raised"
    codes = {name: status.status_code for name, status in statuses.items()}
    error, unset = StatusCode.ERROR, StatusCode.UNSET
    assert codes == {
        "rlhf.step": error, "rlhf.reward": error, "rlhf.reward_function": error, "rlhf.data": unset,
    }  # fmt: skip


def test_a_step_that_raised_outside_every_phase_is_an_error() -> None:
    assert build(step([]), kept_because="failed")[0].status.status_code is StatusCode.ERROR


def test_resource_attributes_leave_out_what_is_not_known() -> None:
    identity = RunIdentity("run-7", rank=1, world_size=2, algorithm="grpo")
    assert resource_attributes(identity) == {
        "rl.system": "trl",
        "rl.run.id": "run-7",
        "rl.algorithm": "grpo",
        "rlhf.rank": 1,
        "rlhf.world_size": 2,
        "rlhf.attempt": 1,
    }


def test_what_the_step_shows_are_signals_of_the_catalogue() -> None:
    from rlhf_otel.catalogue.signals import SIGNALS

    assert set(span_tree.STEP_ATTRIBUTES.values()) <= {signal.name for signal in SIGNALS}
