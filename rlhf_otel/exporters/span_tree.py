"""Span trees: a step's record as OpenTelemetry spans, built afterwards with explicit times.

Live spans cost the training thread more than the whole step's bookkeeping, and most would be thrown away.
Ids are derived: a trace's from run, attempt and step, so that the spans of all ranks are one trace without any
communication (rank 0's ``rlhf.step`` is the root, those of the other ranks are its children); a phase's from its
name and its start, so that it is known as soon as the phase begins.

The ids need the standard library alone; the SDK (0.1 s to import) is loaded when the first span is built.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import (
    ANOMALY_EVENT,
    INSTRUMENTATION_SCOPE,
    PHASE_BY_NAME,
    PHASE_SPAN_PREFIX,
    RUN_SPAN,
    STEP_SPAN,
    Attribute,
)
from rlhf_otel.exporters.sampling import Reason
from rlhf_otel.records import Anomaly, PhaseInterval, Rollouts, RunIdentity, StepRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, Status

MAX_PHASES: Final = 500
"""Phase spans of one step at most, the longest ones: 100,000 reward calls must not fill the export queue."""

MAX_ROLLOUT_LINKS: Final = 16
"""Links of one step to the weights that sampled its rollouts, the newest: TRL drops samples that are older than 3."""

MAX_TEXT: Final = 256
"""Characters kept of a name that comes from the host."""

STEP_ATTRIBUTES: Final = {Attribute.LOSS: "loss", Attribute.KL: "kl_per_token", Attribute.REWARD: "reward"}
"""Attributes of a step and the signals that they show."""

_STEP: Final = -1
"""Position of a rank's step among its spans; as a phase's parent it means the step."""
_RUN: Final = -1
"""Step number of the run's own trace."""

_Value = str | int | float | tuple[str, ...]


def trace_id(run_id: str, attempt: int, step: int) -> int:
    """Trace id of a step, 128 bits and never 0: the same on every rank."""
    seed = f"{run_id}\0{attempt}\0{step}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(seed, digest_size=16).digest(), "big") or 1


def span_id(trace: int, rank: int, index: int) -> int:
    """Span id, 64 bits and never 0, of a rank's step when ``index`` is -1, or of what else is numbered in a trace."""
    seed = b"%032x/%d/%d" % (trace, rank, index)
    return int.from_bytes(blake2b(seed, digest_size=8).digest(), "big") or 1


def phase_span_id(trace: int, rank: int, phase: str, detail: str, start_ns: int, alike: int = 0) -> int:
    """Span id, 64 bits and never 0, of a rank's phase that began at ``start_ns`` of ``time.perf_counter_ns``.

    ``alike`` counts phases of the same name that began in the same nanosecond: as read by a coarse clock.
    """
    text = f"{trace:032x}/{rank}/{phase}/{detail}/{start_ns}/{alike}"
    seed = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(seed, digest_size=8).digest(), "big") or 1


def step_span_id(trace: int, rank: int) -> int:
    """Span id of a rank's step."""
    return span_id(trace, rank, _STEP)


def root_span_id(trace: int) -> int:
    """Span id of the root, which is rank 0's step."""
    return step_span_id(trace, 0)


def run_trace_id(run_id: str, attempt: int) -> int:
    """Trace id of the span that marks the run's start."""
    return trace_id(run_id, attempt, _RUN)


def resource_attributes(identity: RunIdentity) -> dict[str, _Value]:
    """What identifies this process in every trace; what is not known is left out."""
    texts = {
        Attribute.SYSTEM: "trl",
        Attribute.RUN_ID: identity.run_id,
        Attribute.ALGORITHM: identity.algorithm,
        Attribute.MODEL_NAME: identity.model,
    }
    numbers: dict[Attribute, _Value] = {
        Attribute.RANK: identity.rank,
        Attribute.WORLD_SIZE: identity.world_size,
        Attribute.ATTEMPT: identity.attempt,
    }
    return {key.value: text_of(text) for key, text in texts.items() if text} | {
        key.value: number for key, number in numbers.items()
    }


def build_run_span(
    identity: RunIdentity, start_ns: int, end_ns: int, resource: Resource, around: SpanContext | None = None
) -> ReadableSpan:
    """The span that steps link to, from the telemetry's start to the first step; Unix nanoseconds.

    ``around`` is the user's span in which training was started, to which it links.
    """
    from opentelemetry.trace import Link

    trace = run_trace_id(identity.run_id, identity.attempt)
    context, times = context_of(trace, root_span_id(trace)), (start_ns, end_ns)
    links = [Link(around)] if around is not None and around.is_valid else []
    return span_of(RUN_SPAN, context, None, times, {}, resource, links=links)


def build_spans(
    record: StepRecord,
    identity: RunIdentity,
    anomalies: Sequence[Anomaly],
    kept_because: str,
    resource: Resource,
    previous: int | None = None,
) -> list[ReadableSpan]:
    """The spans of one rank's step: ``rlhf.step`` first, then its phases in the record's order.

    ``previous`` is the step kept before it, to which it links.
    """
    trace, rank = trace_id(identity.run_id, identity.attempt, record.step), identity.rank
    parents = phase_parents(record.phases)
    kept = _longest(record.phases)
    contexts = _contexts(trace, rank, record.phases, kept)
    to_unix = record.time_ns - record.end_ns
    device_seconds = record.device.seconds if record.device is not None else {}
    links = [
        _run_link(identity),
        *_previous_link(identity, previous),
        *(_rollout_link(identity, record.step, one) for one in record.rollouts[:MAX_ROLLOUT_LINKS]),
    ]
    spans = [_step_span(record, identity, anomalies, kept_because, contexts[_STEP], resource, links)]
    for index in kept:
        phase, parent = record.phases[index], parents[index]
        while parent not in contexts:
            parent = parents[parent]
        times = phase.start_ns + to_unix, phase.end_ns + to_unix
        attributes = _phase_attributes(phase, identity.collective_phases)
        if (seconds := device_seconds.get(phase[:3])) is not None:
            attributes[Attribute.DEVICE_SECONDS.value] = seconds
        spans.append(_phase_span(phase, contexts[index], contexts[parent], times, attributes, resource))
    return spans


def _contexts(
    trace: int, rank: int, phases: Sequence[PhaseInterval], kept: Iterable[int]
) -> dict[int, SpanContext]:
    """Contexts of the step and of the phases that are kept, by position."""
    contexts = {_STEP: context_of(trace, step_span_id(trace, rank))}
    seen: Counter[tuple[str, str, int]] = Counter()
    for index in kept:
        begun = phases[index][:3]
        contexts[index] = context_of(trace, phase_span_id(trace, rank, *begun, alike=seen[begun]))
        seen[begun] += 1
    return contexts


def phase_parents(phases: Sequence[PhaseInterval]) -> list[int]:
    """Each phase's parent, -1 for the step; one that does not exist or closes a circle becomes the step."""
    count = len(phases)
    parents = [phase.parent if 0 <= phase.parent < count else _STEP for phase in phases]
    visitor = [_STEP] * count
    for start in range(count):
        node = start
        while node != _STEP and visitor[node] == _STEP:
            visitor[node] = start
            if (above := parents[node]) != _STEP and visitor[above] == start:
                parents[node] = _STEP
            node = parents[node]
    return parents


def phases_left_out(record: StepRecord) -> int:
    """How many phases of the step get no span."""
    return record.phases_left_out + max(0, len(record.phases) - MAX_PHASES)


def _longest(phases: Sequence[PhaseInterval]) -> Sequence[int]:
    if len(phases) <= MAX_PHASES:
        return range(len(phases))
    return sorted(
        heapq.nlargest(MAX_PHASES, range(len(phases)), key=lambda i: phases[i].end_ns - phases[i].start_ns)
    )


def _step_span(
    record: StepRecord,
    identity: RunIdentity,
    anomalies: Sequence[Anomaly],
    kept_because: str,
    context: SpanContext,
    resource: Resource,
    links: Sequence[Link],
) -> ReadableSpan:
    trace = context.trace_id
    parent = None if identity.rank == 0 else context_of(trace, root_span_id(trace), is_remote=True)
    times = record.time_ns - (record.end_ns - record.start_ns), record.time_ns
    return span_of(
        STEP_SPAN,
        context,
        parent,
        times,
        _step_attributes(record, identity, kept_because),
        resource,
        events=[_event(anomaly) for anomaly in anomalies],
        links=links,
        status=_status(_what_failed(record, anomalies, kept_because)),
    )


def _phase_span(
    phase: PhaseInterval,
    context: SpanContext,
    parent: SpanContext,
    times: tuple[int, int],
    attributes: dict[str, _Value],
    resource: Resource,
) -> ReadableSpan:
    name, status = PHASE_SPAN_PREFIX + text_of(phase.phase), _status("raised" if phase.failed else "")
    return span_of(name, context, parent, times, attributes, resource, status=status)


def _step_attributes(record: StepRecord, identity: RunIdentity, kept_because: str) -> dict[str, _Value]:
    attributes: dict[str, _Value] = {
        Attribute.STEP.value: record.step,
        Attribute.STEP_KIND.value: record.kind.value,
        Attribute.RANK.value: identity.rank,
        Attribute.KEPT_BECAUSE.value: kept_because,
    }
    if record.tokens > 0:
        attributes[Attribute.TOKENS.value] = record.tokens
    if left_out := phases_left_out(record):
        attributes[Attribute.PHASES_LEFT_OUT.value] = left_out
    if record.profile:
        attributes[Attribute.PROFILE_PATH.value] = text_of(record.profile)
    signals = {key: record.values.get(signal) for key, signal in STEP_ATTRIBUTES.items()}
    return attributes | finite(signals)


def _phase_attributes(phase: PhaseInterval, collective: Container[str]) -> dict[str, _Value]:
    attributes: dict[str, _Value] = {Attribute.PHASE.value: text_of(phase.phase)}
    if known := PHASE_BY_NAME.get(phase.phase):
        attributes[Attribute.PHASE_SCOPE.value] = known.scope_in(collective).value
    if phase.detail:
        attributes[Attribute.PHASE_DETAIL.value] = detail = text_of(phase.detail)
        if phase.phase == "reward_function":
            attributes[Attribute.REWARD_FUNCTION.value] = detail
    return attributes


def _event(anomaly: Anomaly) -> Event:
    from opentelemetry.sdk.trace import Event

    attributes: dict[str, _Value] = {
        Attribute.RULE.value: anomaly.rule,
        Attribute.SEVERITY.value: anomaly.severity.value,
        Attribute.SIGNAL.value: anomaly.signal,
    }
    if anomaly.actions:
        attributes[Attribute.ACTIONS.value] = anomaly.actions
    numbers = {
        Attribute.VALUE: anomaly.value,
        Attribute.BASELINE: anomaly.baseline,
        Attribute.THRESHOLD: anomaly.threshold,
    }
    return Event(ANOMALY_EVENT, attributes | finite(numbers), anomaly.time_ns)


def _what_failed(record: StepRecord, anomalies: Sequence[Anomaly], kept_because: str) -> str:
    """Description of the step's error; empty where there is none."""
    rules = [anomaly.rule for anomaly in anomalies if anomaly.severity is Severity.CRITICAL]
    phases = list(dict.fromkeys(text_of(phase.phase) for phase in record.phases if phase.failed))
    if not rules and not phases:
        return "the step raised" if kept_because == Reason.FAILED else ""
    return "; ".join(rules + [f"{phase} raised" for phase in phases])


def finite(numbers: Mapping[Attribute, float | None]) -> dict[str, _Value]:
    """Backends reject or garble NaN and infinity, so those are left out."""
    return {key.value: float(n) for key, n in numbers.items() if n is not None and math.isfinite(n)}


def text_of(text: str) -> str:
    """``text`` as protobuf takes it: no lone surrogates, and of bounded length."""
    return text[:MAX_TEXT].encode("utf-8", "replace").decode()


def _run_link(identity: RunIdentity) -> Link:
    from opentelemetry.trace import Link

    trace = run_trace_id(identity.run_id, identity.attempt)
    return Link(context_of(trace, root_span_id(trace), is_remote=True))


def _previous_link(identity: RunIdentity, previous: int | None) -> list[Link]:
    from opentelemetry.trace import Link

    if previous is None:
        return []
    trace = trace_id(identity.run_id, identity.attempt, previous)
    return [
        Link(context_of(trace, step_span_id(trace, identity.rank)), {Attribute.PREVIOUS_STEP.value: previous})
    ]


def _rollout_link(identity: RunIdentity, step: int, rollouts: Rollouts) -> Link:
    """To the step whose update made the weights that sampled; to the run where it began with them."""
    from opentelemetry.trace import Link

    trace = trace_id(identity.run_id, identity.attempt, rollouts.made_at)
    if rollouts.inherited:
        trace = run_trace_id(identity.run_id, identity.attempt)
    attributes = {
        Attribute.STALENESS.value: step - 1 - rollouts.made_at,
        Attribute.WEIGHTS_STEP.value: rollouts.made_at,
        Attribute.SAMPLES.value: rollouts.samples,
    }
    return Link(context_of(trace, root_span_id(trace)), attributes)


@functools.cache
def _scope() -> InstrumentationScope:
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    return InstrumentationScope(INSTRUMENTATION_SCOPE)


@functools.lru_cache(maxsize=8)  # one for all spans without a failure, and the few texts that recur
def _status(failure: str) -> Status:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR, failure) if failure else Status(StatusCode.UNSET)


def context_of(trace: int, span: int, is_remote: bool = False, sampled: bool = True) -> SpanContext:
    """``sampled`` is for contexts that leave before it is known whether the span will be kept."""
    from opentelemetry.trace import SpanContext, TraceFlags

    flags = TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT
    return SpanContext(trace, span, is_remote, TraceFlags(flags))


def span_of(
    name: str,
    context: SpanContext,
    parent: SpanContext | None,
    times: tuple[int, int],
    attributes: Mapping[str, _Value],
    resource: Resource,
    *,
    events: Sequence[Event] = (),
    links: Sequence[Link] = (),
    status: Status | None = None,
) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan

    return ReadableSpan(
        name,
        context,
        parent,
        resource,
        attributes,
        events,
        links,
        status=status or _status(""),
        start_time=times[0],
        end_time=max(times),
        instrumentation_scope=_scope(),
    )
