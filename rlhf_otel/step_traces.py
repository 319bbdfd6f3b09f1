"""Which steps of a run leave a trace, and where it goes: spans by OTLP, and a file that needs no server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rlhf_otel import faults
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.checkpoints.process import Analysis
from rlhf_otel.detection.pace import Pace
from rlhf_otel.exporters.chrome_trace import ChromeTraceWriter, TracedStep, traced
from rlhf_otel.exporters.sampling import KNOWN_EVERYWHERE, KeepPolicy
from rlhf_otel.exporters.span_tree import (
    context_of,
    phase_span_id,
    root_span_id,
    run_trace_id,
    step_span_id,
    trace_id,
)
from rlhf_otel.kept_steps import Choice, Following, Telling
from rlhf_otel.records import Anomaly, RunIdentity, Statistics, StepRecord
from rlhf_otel.sources.agreement import Agreement

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

REMEMBERED_STEPS: Final = 64
"""Steps of which another rank than 0 holds the record, until it hears whether rank 0 keeps them."""
MOST_HELD: Final = 8
"""Kept steps that may wait for their device times."""
TRACE_ID_SECONDS: Final = 60.0
"""A rule's trace id, a label, changes at most this often."""

Exemplar = tuple[float, str, float]
"""Duration in seconds, trace id and Unix time of a traced step."""


class StepTraces:
    """Traces of one run. Used on the background thread, but for :meth:`identify`, :meth:`flush` and :meth:`close`."""

    def __init__(self, identity: RunIdentity, directory: Path | None, one_in: int) -> None:
        """``directory`` is for the file; ``one_in``: every how many steps are kept though nothing is the matter with
        them, 0 for none."""
        self._identity = identity
        self._directory = directory
        self._policy = KeepPolicy(one_in, remembered=REMEMBERED_STEPS if identity.rank else 0)
        self._pace = Pace()
        self._telling: Telling | None = None
        self._following: Following | None = None
        self._expected: dict[int, str] = {}
        """Steps that rank 0 keeps and that have not come here yet, and why."""
        self._newest = 0
        self._held: deque[tuple[StepRecord, Sequence[Anomaly], str]] = deque()
        """Kept steps whose device times are not known yet: mostly they are at the end of the next step."""
        self._file = ChromeTraceWriter(directory, identity) if directory is not None else None
        self._exporter = exporter_of(identity) if identity.agreed or identity.rank == 0 else None
        self._of_anomalies: dict[str, tuple[str, float]] = {}
        self.exemplars: dict[str, Exemplar] = {}
        """Kind of step to the last one that was traced."""

    @property
    def exporting(self) -> bool:
        """Whether spans are sent, or will be once rank 0 has told this rank the run's name."""
        return self._exporter is not None or not self._identity.agreed

    def samples(self, step: int) -> bool:
        """Whether the step is kept even if nothing is the matter with it; from any thread."""
        return self._policy.samples(step)

    def span_context(
        self, step: int, phase: tuple[str, str, int] | None, sampled: bool
    ) -> SpanContext | None:
        """What the span of a step in progress will be known by, or that of a phase of it (name, detail, start); from
        any thread. None while no spans are sent."""
        if self._exporter is None:
            return None
        identity = self._identity
        trace = trace_id(identity.run_id, identity.attempt, step)
        if phase is None:
            return context_of(trace, step_span_id(trace, identity.rank), sampled=sampled)
        return context_of(trace, phase_span_id(trace, identity.rank, *phase), sampled=sampled)

    def run_context(self) -> SpanContext | None:
        """What the run's own span is known by; None where no spans are sent."""
        if self._exporter is None:
            return None
        trace = run_trace_id(self._identity.run_id, self._identity.attempt)
        return context_of(trace, root_span_id(trace))

    @property
    def kept(self) -> Mapping[str, int]:
        """Steps kept so far, by reason."""
        return dict(self._policy.kept)

    @property
    def exported(self) -> int:
        """Spans that were sent."""
        return self._exporter.exported if self._exporter is not None else 0

    @property
    def dropped(self) -> int | None:
        """Spans that were not; None where nothing is sent."""
        return self._exporter.dropped if self._exporter is not None else None

    @property
    def of_anomalies(self) -> Mapping[str, str]:
        """Rule to the trace id that its page leads to."""
        return {rule: trace for rule, (trace, _) in self._of_anomalies.items()}

    def identify(self, run_id: str, attempt: int) -> None:
        """Take the name that rank 0 decided, before anything has been exported under another."""
        self._identity = replace(self._identity, run_id=run_id, attempt=attempt, agreed=True)
        self._exporter = exporter_of(self._identity)
        if self._directory is not None:
            self._file = ChromeTraceWriter(self._directory, self._identity)

    def share(self, agreement: Agreement, key: str) -> None:
        """Keep the same steps on all ranks, by ``key`` of the job's store. Before the first step."""
        if self._identity.rank == 0:
            self._telling = Telling(agreement, key)
        else:
            self._following = Following(agreement, key)

    def note_anomalies(self, record: StepRecord, verdicts: Iterable[Any]) -> None:
        """Remember the trace of each rule (``detection.detector.Verdict``) that is in breach at this step."""
        if self._exporter is None:
            return
        for verdict in verdicts:
            if verdict.last_step != record.step or not verdict.total:
                continue
            since = self._of_anomalies.get(verdict.rule.name, ("", 0.0))[1]
            if record.time_ns / 1e9 - since >= TRACE_ID_SECONDS:
                self._of_anomalies[verdict.rule.name] = (self._trace_id(record.step), record.time_ns / 1e9)

    def offer(
        self,
        record: StepRecord,
        duration: Statistics | None,
        anomalies: Sequence[Anomaly],
        failed: bool,
    ) -> None:
        """Trace the step, and those just before it, if they are worth it. ``duration`` are the statistics of its
        duration; ``anomalies`` those that fire at it; ``failed``: whether training raised in it."""
        if self._exporter is None and self._file is None:
            return
        with faults.isolated("traces", "choosing and building the spans of a step"):
            self._release()
            slow = self._pace.is_slow(record, duration)
            failed = failed or any(phase.failed for phase in record.phases)
            chosen = self._policy.offer(record, slow, anomalies, failed)
            for kept, reason in chosen:
                self._keep(kept, anomalies if kept is record else (), reason)
            self._newest = record.step
            if self._telling is not None:
                self._telling.tell([(kept.step, why) for kept, why in chosen if why not in KNOWN_EVERYWHERE])
            if self._following is not None:
                self._follow(self._following.look())

    def end(self) -> None:
        """No step will follow: let the other ranks know, or hear rank 0 out, which takes a bounded time."""
        with faults.isolated("traces", "keeping the same steps on all ranks"):
            if self._telling is not None:
                self._telling.tell([], ended=True)
            if self._following is not None:
                self._follow(self._following.last_word())
            self._release(0)

    def export_checkpoint(self, analysis: Analysis) -> None:
        """The span of a checkpoint's analysis, which ends now."""
        if self._exporter is not None:
            self._exporter.export_checkpoint(analysis, time.time_ns())

    def flush(self, timeout_s: float) -> None:
        """Send what is queued, within a bound."""
        if self._exporter is not None:
            self._exporter.flush(timeout_s)

    def close_file(self) -> None:
        """Nothing will be kept any more."""
        if self._file is not None:
            self._file.close()

    def close(self, timeout_s: float) -> None:
        """Send what is queued and stop, within a bound."""
        if self._exporter is not None:
            self._exporter.close(timeout_s)

    def _follow(self, choices: Sequence[Choice]) -> None:
        """Keep what rank 0 keeps, once it is here."""
        self._expected.update(choices)
        for step in [step for step in self._expected if step <= self._newest]:
            reason = self._expected.pop(step)
            known = self._policy.remembers(step)
            if (record := self._policy.take(step, reason)) is not None:
                self._keep(record, (), reason)
            elif not known and self._exporter is not None:
                self._exporter.lose(1)

    def release(self) -> None:
        """Send what waits for its device times, without them where they are not known."""
        with faults.isolated("traces", "sending steps without their device times"):
            self._release(0)

    def _keep(self, record: StepRecord, fired: Sequence[Anomaly], reason: str) -> None:
        self._write(traced(record, self._identity.rank, fired, reason))
        if record.device is not None and not record.device.known:
            self._held.append((record, fired, reason))
        else:
            self._send(record, fired, reason)

    def _release(self, most: int = MOST_HELD) -> None:
        """Send the steps whose device times are known, and the oldest where there are more than ``most``."""
        held = self._held
        while held and (len(held) > most or held[0][0].device is None or held[0][0].device.known):
            self._send(*held.popleft())

    def _send(self, record: StepRecord, fired: Sequence[Anomaly], reason: str) -> None:
        if self._exporter is not None:
            self._exporter.export(record, fired, reason)
            at_s = record.time_ns / 1e9
            self.exemplars[StepKind(record.kind).value] = (
                record.duration_s,
                self._trace_id(record.step),
                at_s,
            )

    def _write(self, step: TracedStep) -> None:
        if self._file is None:
            return
        try:
            self._file.write(step)
        except OSError as error:
            self._file = None
            faults.record("traces", error, "writing the trace file, which ends here")

    def _trace_id(self, step: int) -> str:
        return f"{trace_id(self._identity.run_id, self._identity.attempt, step):032x}"


def exporter_of(identity: RunIdentity) -> Any:
    """An exporter by way of the user's own provider, or where the standard variables name an endpoint; the SDK
    is imported only then."""
    from rlhf_otel.exporters.traces import TraceExporter
    from rlhf_otel.exporters.user_provider import through_the_users_provider

    with faults.isolated("traces", "setting up the OTLP trace exporter"):
        return through_the_users_provider(identity) or TraceExporter.from_environment(identity)
    return None  # type: ignore[unreachable]  # isolated() may swallow the exception
