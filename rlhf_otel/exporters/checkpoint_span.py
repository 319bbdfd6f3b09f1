"""The span of a checkpoint's analysis: in the run's own trace, linked to the step that saved it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from rlhf_otel.catalogue.spans import CHECKPOINT_SPAN, FINDING_EVENT, Attribute
from rlhf_otel.exporters import span_tree
from rlhf_otel.records import RunIdentity

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Link


class Analysed(Protocol):
    """What was found out about a saved checkpoint."""

    @property
    def step(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def health(self) -> float: ...
    @property
    def drift(self) -> float | None: ...
    @property
    def reference_drift(self) -> float | None: ...
    @property
    def findings(self) -> Sequence[Mapping[str, str]]: ...
    @property
    def seconds(self) -> float: ...


def build_checkpoint_span(
    analysis: Analysed, identity: RunIdentity, end_ns: int, resource: Resource
) -> ReadableSpan:
    """``rlhf.checkpoint_analysis``, with an event for each finding; ``end_ns`` is Unix time."""
    trace = span_tree.run_trace_id(identity.run_id, identity.attempt)
    context = span_tree.context_of(trace, span_tree.span_id(trace, identity.rank, analysis.step))
    parent = span_tree.context_of(trace, span_tree.root_span_id(trace))
    numbers = {
        Attribute.CHECKPOINT_HEALTH: analysis.health,
        Attribute.CHECKPOINT_DRIFT: analysis.drift,
        Attribute.CHECKPOINT_REFERENCE_DRIFT: analysis.reference_drift,
    }
    attributes = {
        Attribute.STEP.value: analysis.step,
        Attribute.CHECKPOINT_PATH.value: span_tree.text_of(analysis.path),
        **span_tree.finite(numbers),
    }
    times = end_ns - int(analysis.seconds * 1e9), end_ns
    events = [_event(finding, end_ns) for finding in analysis.findings]
    return span_tree.span_of(
        CHECKPOINT_SPAN,
        context,
        parent,
        times,
        attributes,
        resource,
        events=events,
        links=[_link(analysis.step, identity)],
    )


def _event(finding: Mapping[str, str], time_ns: int) -> Event:
    from opentelemetry.sdk.trace import Event

    attributes = {
        Attribute.FINDING.value: finding["name"],
        Attribute.SEVERITY.value: finding["severity"],
        Attribute.FINDING_WHERE.value: span_tree.text_of(finding["where"]),
        Attribute.FINDING_EVIDENCE.value: span_tree.text_of(finding["evidence"]),
    }
    return Event(FINDING_EVENT, attributes, time_ns)


def _link(step: int, identity: RunIdentity) -> Link:
    from opentelemetry.trace import Link

    trace = span_tree.trace_id(identity.run_id, identity.attempt, step)
    return Link(span_tree.context_of(trace, span_tree.root_span_id(trace), is_remote=True))
