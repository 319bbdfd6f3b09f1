"""The span that is current while training: where it says training is, and whom it leaves alone."""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otlp_receiver import hanging_server

from rlhf_otel import faults
from rlhf_otel.exporters.span_tree import phase_span_id, run_trace_id, step_span_id, trace_id
from rlhf_otel.records import RunIdentity
from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder
from rlhf_otel.step_traces import StepTraces
from rlhf_otel.trace_context import TraceContext

RANK = 3
ONE_IN = 10
PLANNED = 100


class Training(NamedTuple):
    """A training of which the phases can be begun and ended by hand."""

    context: TraceContext
    recorder: PhaseRecorder
    traces: StepTraces
    steps: list[int]
    """The last whole one."""

    def address(self, step: int, phase: OpenInterval | None = None) -> tuple[int, int]:
        """Trace and span id that a phase of a step should have, or the step itself."""
        found = trace_id("run", 1, step)
        if phase is None:
            return found, step_span_id(found, RANK)
        return found, phase_span_id(found, RANK, *phase[:3])


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[Training]:
    with hanging_server() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        made = prepared(agreed=True)
        made.context.enter()
        yield made
        made.context.leave()
        made.traces.close(0.0)
    assert trace.get_current_span() is trace.INVALID_SPAN


def prepared(agreed: bool) -> Training:
    recorder, steps = PhaseRecorder(), [4]
    traces = StepTraces(RunIdentity("run", rank=RANK, world_size=8, agreed=agreed), None, ONE_IN)
    return Training(
        TraceContext(traces, recorder, lambda: steps[0], planned_steps=PLANNED), recorder, traces, steps
    )


def current() -> tuple[int, int]:
    found = trace.get_current_span().get_span_context()
    return found.trace_id, found.span_id


def sampled() -> bool:
    return bool(trace.get_current_span().get_span_context().trace_flags.sampled)


def elsewhere(call: Callable[[], Any]) -> Any:
    """What ``call`` returns on a thread that knows nothing of this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(60)


def test_it_is_where_training_is(training: Training) -> None:
    assert current() == training.address(5)
    reward = training.recorder.begin("reward")
    assert current() == training.address(5, reward)
    judge = training.recorder.begin("reward_function", "judge")
    assert current() == training.address(5, judge)
    training.recorder.end(judge)
    assert current() == training.address(5, reward)
    training.recorder.end(reward)
    training.steps[0] = 5
    assert current() == training.address(6)


def test_the_first_step_and_one_in_so_many_are_sampled(training: Training) -> None:
    seen = []
    for last in range(4, 30):
        training.steps[0] = last
        seen += [last + 1] if sampled() else []
    assert seen == [5, 10, 20, 30]


def test_after_the_last_step_it_is_the_runs(training: Training) -> None:
    training.steps[0] = PLANNED
    assert current()[0] == run_trace_id("run", 1)
    assert sampled()


def test_a_users_span_inside_stays_current(training: Training) -> None:
    tracer = TracerProvider().get_tracer("theirs")
    with tracer.start_as_current_span("outer") as outer:
        assert outer.parent is not None  # type: ignore[attr-defined]
        assert outer.parent.span_id == training.address(5)[1]  # type: ignore[attr-defined]
        phase = training.recorder.begin("reward")
        assert trace.get_current_span() is outer
        run_elsewhere = contextvars.copy_context().run
        assert (
            elsewhere(lambda: run_elsewhere(in_a_phase, training.recorder, trace.get_current_span)) is outer
        )
        training.recorder.end(phase)
    assert current() == training.address(5)


def in_a_phase(recorder: PhaseRecorder, call: Callable[[], Any]) -> Any:
    phase = recorder.begin("reward_function", "judge")
    try:
        return call()
    finally:
        recorder.end(phase)


def test_a_phase_of_another_thread_is_the_parent_there_and_nowhere_else(training: Training) -> None:
    reward = training.recorder.begin("reward")
    seen: list[tuple[int, int]] = []

    def judge() -> OpenInterval:
        assert trace.get_current_span() is trace.INVALID_SPAN
        opened = training.recorder.begin("reward_function", "judge")
        seen.append(current())
        training.recorder.end(opened)
        assert trace.get_current_span() is trace.INVALID_SPAN
        return opened

    opened = elsewhere(judge)
    assert seen == [training.address(5, opened)]
    assert current() == training.address(5, reward)


def test_what_outlives_its_phase_stays_under_it(training: Training) -> None:
    """As a task does that a reward function has started and not awaited."""
    kept: list[contextvars.Context] = []

    def judge() -> OpenInterval:
        opened = training.recorder.begin("reward_function", "judge")
        kept.append(contextvars.copy_context())
        training.recorder.end(opened)
        return opened

    opened = elsewhere(judge)
    training.steps[0] = 7
    assert kept[0].run(current) == training.address(5, opened)


def test_training_may_end_in_another_context_than_it_began(training: Training) -> None:
    inherited = contextvars.copy_context()
    inherited.run(training.context.leave)
    assert current() == (0, 0)


def test_it_points_nowhere_once_training_is_over_though_somebody_kept_it(training: Training) -> None:
    kept = trace.get_current_span()
    training.context.leave()
    assert not kept.get_span_context().is_valid
    assert elsewhere(lambda: in_a_phase(training.recorder, trace.get_current_span)) is trace.INVALID_SPAN


def test_a_forked_child_is_nowhere_in_training(training: Training) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, b"%d" % current()[0])
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"0"
    os.close(read)
    os.close(write)


def test_a_rank_that_has_not_been_told_the_runs_name_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with hanging_server() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        waiting = prepared(agreed=False)
        assert waiting.traces.exporting
        waiting.context.enter()
        assert current() == (0, 0)
        waiting.traces.identify("run", 1)
        assert current() == waiting.address(5)
        waiting.context.leave()
        waiting.traces.close(0.0)


def test_a_fault_leaves_the_span_around(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("not today")

    monkeypatch.setattr(training.traces, "span_context", broken)
    assert current() == (0, 0)
    assert faults.counts()["traces"] == 1
