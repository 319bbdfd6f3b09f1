"""The OpenTelemetry context of training: a user's spans and requests hang under the phase in which they are made.

One span is current on the training thread for as long as the run lasts. Where training is, it finds out when it is
asked, which is when a span begins or a request leaves: phases cost the training thread nothing. Phases of other
threads (asynchronous reward functions) have one of their own, which the context carries through their tasks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

from opentelemetry.context import attach, get_current
from opentelemetry.trace import (
    INVALID_SPAN,
    Span,
    SpanContext,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.util.types import Attributes, AttributeValue

from rlhf_otel import faults
from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder
from rlhf_otel.step_traces import StepTraces


class TraceContext:
    """Of one run; entered and left on its training thread."""

    def __init__(
        self,
        traces: StepTraces,
        recorder: PhaseRecorder,
        last_step: Callable[[], int],
        planned_steps: int,
    ) -> None:
        """``last_step`` is the last whole one, now the one before the first; of ``planned_steps`` 0 means unknown."""
        self._traces = traces
        self._recorder = recorder
        self._last_step = last_step
        self._first_step = last_step() + 1
        self._planned_steps = planned_steps
        self._process = os.getpid()
        self._left = False
        self._span: TrainingSpan | None = None
        self._always = False

    def enter(self) -> None:
        """Make the phase in which training is the parent of whatever begins on this thread, and on others that
        carry its context."""
        self._always = get_current_span().get_span_context().trace_flags.sampled
        self._span = TrainingSpan(self._here)
        self._span.enter()
        self._recorder.elsewhere = self

    def leave(self) -> None:
        """Put back the context of before. Where somebody has put another one on top, that stays; it has no more
        of ours in it than a span that points at the one around training."""
        self._left = True
        self._recorder.elsewhere = None
        if self._span is not None:
            self._span.leave()

    # --- phases of other threads, on those

    def begun(self, opened: OpenInterval) -> None:
        """Make the phase the parent of what begins in this task or thread, but not in place of a user's span."""
        try:
            current = get_current_span()
            if current is INVALID_SPAN or isinstance(current, TrainingSpan):
                TrainingSpan(partial(self._located, opened, self._last_step() + 1), opened).enter()
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("traces", error, "making a phase of another thread the parent of other spans")

    def ended(self, opened: OpenInterval) -> None:
        """Put back what was before it, unless somebody's span is current that has not ended."""
        current = get_current_span()
        if isinstance(current, TrainingSpan) and current.opened is opened:
            current.leave()

    # --- wherever somebody asks

    def _here(self) -> SpanContext | None:
        step = self._last_step() + 1
        if 0 < self._planned_steps < step and not self._left:
            return self._traces.run_context()  # no step comes that a last evaluation could belong to
        return self._located(self._recorder.innermost, step)

    def _located(self, opened: OpenInterval | None, step: int) -> SpanContext | None:
        """The context of a phase, or of the step itself; None once training is over, and in a forked child."""
        if self._left or os.getpid() != self._process:
            return None
        sampled = self._always or step == self._first_step or self._traces.samples(step)
        return self._traces.span_context(step, opened[:3] if opened is not None else None, sampled)


class TrainingSpan(Span):
    """A current span with the address of a phase. In all else it stands for the span around it, as if it were not
    there: what somebody says to the current span goes to that one."""

    def __init__(self, locate: Callable[[], SpanContext | None], opened: OpenInterval | None = None) -> None:
        """``locate`` tells the address, or None where the one of the span around is right."""
        self._locate = locate
        self.opened = opened
        self._before = get_current()
        self._around = get_current_span()

    def enter(self) -> None:
        """Be the current span."""
        attach(set_span_in_context(self))

    def leave(self) -> None:
        """Be it no longer. Without the token of the context variable, which only the context that it came from
        takes back: training may have been begun in one and end in another."""
        if get_current_span() is self:
            attach(self._before)

    def get_span_context(self) -> SpanContext:
        """The phase's address, as of now."""
        try:
            found = self._locate()
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("traces", error, "telling the phase in which training is")
            found = None
        return found if found is not None else self._around.get_span_context()

    def end(self, end_time: int | None = None) -> None:
        """Nothing: the phase ends when it ends, and the span around it is somebody else's."""

    def is_recording(self) -> bool:
        """Whether the span around is."""
        return self._around.is_recording()

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Tell the span around."""
        self._around.set_attributes(attributes)

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Tell the span around."""
        self._around.set_attribute(key, value)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Tell the span around."""
        self._around.add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Tell the span around."""
        self._around.add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Tell the span around."""
        self._around.update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Tell the span around."""
        self._around.set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Tell the span around."""
        self._around.record_exception(exception, attributes, timestamp, escaped)
