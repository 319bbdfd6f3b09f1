"""Traces by OTLP, when the standard OpenTelemetry variables name an endpoint; without one, no import even.

An endpoint that refuses, hangs or is not there must cost the run nothing but its traces: spans wait in a
bounded queue, whole steps are dropped when it is full, what is lost is counted, and one outage is one fault.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlsplit

from rlhf_otel import faults
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.exporters.checkpoint_span import Analysed, build_checkpoint_span
from rlhf_otel.exporters.errands import Errands, Hurry
from rlhf_otel.exporters.otlp_environment import MAX_PENDING_SPANS, otlp_destination
from rlhf_otel.exporters.partial_success import Answers
from rlhf_otel.exporters.span_tree import build_run_span, build_spans, phases_left_out, resource_attributes
from rlhf_otel.records import Anomaly, RunIdentity, StepRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

logger = logging.getLogger("rlhf_otel")

LINKABLE_STEPS: Final = 64
"""Steps that were sent and that a later one may link to: they do not always come in their order."""

SDK_JITTER: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)
"""Where the SDK draws the jitter of its retries, over HTTP at every export."""

SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.common._internal",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)
"""Where the SDK reports each retry and each lost batch."""


class TraceExporter:
    """Exports kept steps. :meth:`export` never waits, :meth:`flush` and :meth:`close` no longer than told."""

    def __init__(
        self,
        identity: RunIdentity,
        span_exporter: SpanExporter,
        endpoint: str = "",
        max_pending: int = MAX_PENDING_SPANS,
        resource: Resource | None = None,
    ) -> None:
        """``endpoint`` is for messages: where ``span_exporter`` sends to. ``resource`` is by default made of the
        standard variables and ``identity``."""
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import get_current_span

        self._identity = identity
        self._around = get_current_span().get_span_context()
        self._resource = resource or _resource(identity)
        self._created_ns = time.time_ns()
        self._run_span_due = identity.rank == 0
        self._exported_steps: deque[int] = deque(maxlen=LINKABLE_STEPS)
        self._delivery = _Delivery(span_exporter, endpoint, max_pending)
        self._processor = BatchSpanProcessor(cast("SpanExporter", self._delivery), max_queue_size=max_pending)
        self._errands = Errands()
        self._hurry = Hurry(self._processor, self._errands)
        self._flushed = threading.Event()
        self._flushed.set()
        self._pid = os.getpid()

    @classmethod
    def from_environment(cls, identity: RunIdentity) -> TraceExporter | None:
        """The exporter that the standard variables ask for; None when they name no endpoint or switch it off.

        ``OTEL_TRACES_EXPORTER=otlp`` alone does not switch it on: ``opentelemetry-instrument`` sets that for
        everyone.
        """
        wanted = otlp_destination()
        if wanted.note:
            logger.warning(wanted.note)
        if not wanted.endpoint:
            return None
        try:
            return cls(identity, _span_exporter(wanted.protocol), wanted.endpoint, wanted.max_pending)
        except Exception as error:  # whatever the SDK thinks of OTEL_EXPORTER_OTLP_* and OTEL_BSP_*
            raise ConfigurationError(
                f"{wanted.key}={wanted.endpoint!r} with {wanted.protocol}: the SDK refuses its OTEL_* settings: {error}"
            ) from error

    @property
    def exported(self) -> int:
        """Spans that the endpoint accepted."""
        return self._delivery.exported

    @property
    def dropped(self) -> int:
        """Spans lost: queue full, refused by the endpoint, unsent at the end, or too many in one step."""
        return self._delivery.dropped

    def export(self, record: StepRecord, anomalies: Sequence[Anomaly], kept_because: str) -> None:
        """Queue a kept step's spans: all of them, or none when the queue is full."""
        if os.getpid() != self._pid:
            return
        previous = max((step for step in self._exported_steps if step < record.step), default=None)
        spans = build_spans(record, self._identity, anomalies, kept_because, self._resource, previous)
        if self._run_span_due:
            spans.insert(0, self._run_span(spans[0]))
        self._delivery.lose(phases_left_out(record))
        if not self._delivery.admit(len(spans)):
            return
        self._run_span_due = False
        self._exported_steps.append(record.step)
        for span in spans:
            self._processor.on_end(span)
        self._hurry.send()

    def lose(self, spans: int) -> None:
        """Count spans that could not even be built."""
        self._delivery.lose(spans)

    def export_checkpoint(self, analysis: Analysed, end_ns: int) -> None:
        """Queue the span of a checkpoint's analysis, which ended at this Unix time."""
        if os.getpid() == self._pid and self._delivery.admit(1):
            self._processor.on_end(build_checkpoint_span(analysis, self._identity, end_ns, self._resource))
            self._hurry.send()

    def flush(self, timeout_s: float) -> bool:
        """Send what waits; whether all of it has left within ``timeout_s``."""
        if os.getpid() != self._pid or self._delivery.closed:
            return False
        self._hurry.at_once()
        if self._flushed.is_set():  # else one still hangs, and another would queue up behind it
            self._flushed = self._errands.start(self._processor.force_flush)
        return self._flushed.wait(timeout_s) and self._delivery.pending == 0

    def close(self, timeout_s: float) -> None:
        """Send what waits for at most ``timeout_s``, give up on the rest, and count it."""
        if os.getpid() != self._pid or not self._delivery.refuse():
            return
        self._hurry.at_once()
        in_time = self._errands.start(self._processor.shutdown).wait(timeout_s)
        self._delivery.abandon(in_time)
        self._errands.stop()

    def _run_span(self, first_step: ReadableSpan) -> ReadableSpan:
        end_ns = first_step.start_time or self._created_ns
        times = min(self._created_ns, end_ns), end_ns
        return build_run_span(self._identity, *times, self._resource, self._around)


class _Delivery:
    """The OTLP exporter, as the SDK's batch processor sees it: counts what becomes of each span.

    The processor itself drops its oldest spans one by one when it is full and tells nobody, so the bound is
    kept here: whatever is admitted and not yet answered for is pending, and fits into the processor's queue.
    """

    def __init__(self, exporter: SpanExporter, endpoint: str, limit: int) -> None:
        self._exporter = exporter
        self._address = urlsplit(endpoint).netloc.rpartition("@")[2] or endpoint
        self._limit = limit
        self._quiet = _Quiet()
        self._answers = Answers(exporter)
        self._lock = threading.Lock()
        self._failing = False
        self._shut = False
        self._abandoned = False
        self.closed = False
        self.pending = 0
        self.exported = 0
        self.dropped = 0

    def admit(self, count: int) -> bool:
        """Whether ``count`` more spans may be queued; they are dropped otherwise."""
        with self._lock:
            full = self.pending + count > self._limit
            if not full and not self.closed:
                self.pending += count
                return True
            self.dropped += count
        if full:
            self._report(BufferError(f"{self._limit} spans may wait; what does not fit is dropped"))
        return False

    def lose(self, count: int) -> None:
        """Count spans that were never built."""
        with self._lock:
            self.dropped += count

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, on whichever thread the processor uses, and remember how it went."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        if self._abandoned:
            return SpanExportResult.FAILURE
        try:
            with self._quiet.withholding():
                result = self._exporter.export(spans)
                message, rejected = self._quiet.message, self._answers.take()
        except Exception as error:  # noqa: BLE001, the report logs it with its traceback
            self._settle(len(spans), error)
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self._settle(len(spans), ConnectionError(message or "the endpoint refused"))
        elif rejected.spans:
            partial = ConnectionError(f"the endpoint rejected {rejected.spans} spans: {rejected.message}")
            self._settle(len(spans), partial, min(rejected.spans, len(spans)))
        else:
            self._settle(len(spans))
        return result

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered here."""
        return True

    def shutdown(self) -> None:
        """Shut the OTLP exporter down, once; it also interrupts its wait between two attempts."""
        with self._lock:
            first, self._shut = not self._shut, True
        if first:
            with self._quiet.withholding():
                self._exporter.shutdown()

    def refuse(self) -> bool:
        """Admit no more; False when that was so already."""
        with self._lock:
            first, self.closed = not self.closed, True
        return first

    def abandon(self, in_time: bool) -> None:
        """Give up on whatever still waits."""
        with self._lock:
            lost, self.pending = self.pending, 0
            self.dropped += lost
            self._abandoned = True
        if not in_time:
            self._report(TimeoutError(f"no answer before the end; {lost} spans are lost"))
            self.shutdown()
        self._quiet.detach()

    def _settle(self, count: int, error: BaseException | None = None, lost: int | None = None) -> None:
        """``count`` spans are answered for, of which with an error ``lost`` are, by default all."""
        lost = 0 if error is None else count if lost is None else lost
        with self._lock:
            if self._abandoned:
                return
            self.pending -= count
            self.exported += count - lost
            self.dropped += lost
        if error:
            self._report(error)
        else:
            self._failing = False

    def _report(self, error: BaseException) -> None:
        """One outage, however many batches it takes, is one fault."""
        with self._lock:
            first, self._failing = not self._failing, True
        if first:
            faults.record("traces", error, f"exporting spans to {self._address}")


class _Quiet(logging.Filter):
    """Withholds what the SDK logs while it exports for us, and keeps the first message for our own fault.

    Only records of the thread inside :meth:`withholding` are withheld: other exporters in this process log as
    they always did, and no level, handler or logger of the user's is touched.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()
        self._lock = threading.Lock()
        self._inside = 0
        self._leaving = False
        for name in SDK_LOGGERS:
            logging.getLogger(name).addFilter(self)

    @property
    def message(self) -> str:
        """The first message withheld on this thread, which tells the cause; later ones count retries."""
        return cast(str, getattr(self._thread, "message", ""))

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the SDK's loggers."""
        if not getattr(self._thread, "active", False):
            return True
        self._thread.message = self.message or record.getMessage()
        return False

    @contextlib.contextmanager
    def withholding(self) -> Iterator[None]:
        """Withhold this thread's records inside."""
        self._thread.active, self._thread.message = True, ""
        with self._lock:
            self._inside += 1
        try:
            yield
        finally:
            self._thread.active = False
            with self._lock:
                self._inside -= 1
            self._detach_if_done()

    def detach(self) -> None:
        """Leave the SDK's loggers as they were, once an export that still hangs has had its last word."""
        with self._lock:
            self._leaving = True
        self._detach_if_done()

    def _detach_if_done(self) -> None:
        with self._lock:
            done = self._leaving and not self._inside
        for name in SDK_LOGGERS if done else ():
            logging.getLogger(name).removeFilter(self)


def _span_exporter(protocol: str) -> SpanExporter:
    exporter = _sdk_exporter(protocol)
    spare_global_randomness()
    return exporter


def spare_global_randomness() -> None:
    """Give the SDK a generator of its own: draws from Python's global one, by a thread, would make a training
    that uses ``random`` come out differently each time."""
    for name in SDK_JITTER:
        module: Any = sys.modules.get(name)
        if getattr(module, "random", None) is random:
            module.random = random.Random()


def _sdk_exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter

        return GrpcSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

    return HttpSpanExporter()


def _resource(identity: RunIdentity) -> Resource:
    """``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES``, and what this run knows of itself."""
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    resource = Resource.create(dict(resource_attributes(identity)))
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "rlhf_otel"}))
    return resource
