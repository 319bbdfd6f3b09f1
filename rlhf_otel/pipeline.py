"""The pipeline: a step record in, detection, a snapshot to be scraped, and delivery in the background.

The one place where an exporter's fault is isolated from the others. Steps are judged, published and exported
on the background thread; the training thread only submits them.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.background import Background
from rlhf_otel.catalogue.metrics import MAX_REWARD_FUNCTIONS, MAX_TRAINER_METRICS, STEP_DURATION_BUCKETS
from rlhf_otel.catalogue.rules import Severity, compared
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.checkpoints.process import Analysis, signals
from rlhf_otel.detection.derived import add_evaluation_gap
from rlhf_otel.detection.health import HealthScores
from rlhf_otel.detection.of_a_rank import judges_of
from rlhf_otel.detection.stall_limit import StallLimits
from rlhf_otel.detection.waste import WasteTotals, account
from rlhf_otel.exporters.journal_records import (
    checkpoint_analysis_record,
    end_record,
    ledger_record,
    run_record,
)
from rlhf_otel.records import (
    Anomaly,
    Health,
    HistogramState,
    RunEnd,
    RunIdentity,
    Snapshot,
    Statistics,
    StepRecord,
    TelemetryCounts,
)
from rlhf_otel.run_journal import RunJournal
from rlhf_otel.settings import Settings
from rlhf_otel.sources import trl_keys
from rlhf_otel.sources.environment import environment
from rlhf_otel.step_traces import StepTraces

logger = logging.getLogger("rlhf_otel")

CHECKPOINTS_KEPT_IN_MIND: Final = 20
"""To find the last one before an anomaly, which may have begun several of them ago."""

_ABSENT: Final[dict[str, float | None]] = {signal.name: None for signal in SIGNALS if signal.momentary}


class Pipeline:
    """One run's way from records to exporters."""

    def __init__(
        self, identity: RunIdentity, settings: Settings, directory: Path | None, monitored: bool = False
    ) -> None:
        """``directory`` is for the journal, which rank 0 keeps, and each rank's trace file; ``monitored`` says that a
        `RewardModelMonitor` watches the rewards."""
        self.identity = identity
        measurable = trl_keys.measurable(identity.algorithm, monitored)
        self._baselines, self._detector = judges_of(identity.rank, measurable, settings.rule_set)
        self._health_scores = HealthScores(self._detector.rules) if identity.rank == 0 else None
        self._background = Background()
        self.submit: Callable[..., object] = self._background.submit
        """Runs a call on the background thread, in order."""
        self._journal = RunJournal(directory if identity.rank == 0 else None)
        self._waste = WasteTotals()
        self._traces = StepTraces(identity, directory, settings.trace_one_in)
        self._dropped = {"reward_function": 0, "key": 0}
        self._reward_functions: dict[str, tuple[float, float]] = {}
        self._unmapped: dict[str, float] = {}
        watched = (signal.name for signal in SIGNALS if signal.watch_nonfinite)
        self._nonfinite = {name: 0 for name in watched if name in measurable}
        self._values: dict[str, float | None] = {}
        self._histograms = {
            StepKind.GENERATE.value: HistogramState((0,) * (len(STEP_DURATION_BUCKETS) + 1), 0.0)
        }
        self.limits = StallLimits(settings.stall_floor_s, settings.stall_multiple, settings.stall_patience_s)
        self._announced: RunEnd | None = None
        self._end: RunEnd | None = None
        self._drained = True
        self.answer: Callable[[Anomaly], Anomaly] | None = None
        """Begins the actions that follow an anomaly."""
        now = time.time()
        self.snapshot = Snapshot(
            started_s=now,
            time_s=now,
            nonfinite=self._nonfinite,
            compared=compared(settings.rule_set),
            verdicts=self._detector.verdicts,
            durations=dict(self._histograms),
            dropped=dict(self._dropped),
            stall_threshold_s=self.limits.step_s,
        )

    @property
    def traces(self) -> StepTraces:
        """Which steps leave a trace, and what its spans are known by."""
        return self._traces

    def resume(self, baselines: Mapping[str, Any] | None) -> None:
        """Go on from what an earlier attempt had :meth:`learnt`. Before the first step."""
        if baselines and self.identity.rank == 0:
            with faults.isolated("detection", "restoring the baselines"):
                self._baselines.restore(dict(baselines))

    def learnt(self) -> dict[str, Any]:
        """The baselines, as plain data; on the background thread."""
        return self._baselines.state()

    def identify(self, run_id: str, attempt: int) -> None:
        """Take the name that rank 0 decided, before anything has been exposed or exported under another."""
        self.identity = replace(self.identity, run_id=run_id, attempt=attempt, agreed=True)
        self._traces.identify(run_id, attempt)

    def note(self, record: dict[str, Any]) -> None:
        """Add a record to the journal, in its turn; any thread."""
        self._background.submit(self._journal.write, record)

    def start(
        self,
        planned_steps: int,
        first_step: int,
        config: Mapping[str, Any],
        resumed_s: float | None = None,
    ) -> None:
        """The run begins; ``resumed_s`` is the Unix time of the checkpoint that it goes on from."""
        now = time.time()
        self.snapshot = self.snapshot._replace(
            started_s=now, time_s=now, planned_steps=planned_steps, step=first_step
        )
        self._background.start()
        self._background.submit(self._begin, dict(config), resumed_s)

    def step(
        self, record: StepRecord, tokens: float, telemetry_s: float, skipped_steps: int = 0
    ) -> list[Anomaly]:
        """Judge a step, publish it, export it; on the background thread. Returns the new anomalies."""
        if self._announced is not None and record.time_ns > self._announced.time_ns:
            self._announced = None  # training went on
        record.values["step_duration"] = duration = record.duration_s
        add_evaluation_gap(record.values, self.snapshot.evaluation.get("reward"))
        self._count_nonfinite(record)
        statistics, anomalies = self._judged(record)
        self._account(record, statistics.get("step_duration"))
        self._values = {**self._values, **_ABSENT, **record.values}
        self._count_duration(record.kind, duration)
        if record.reward_functions:
            self._reward_functions = self._capped(
                self._reward_functions, record.reward_functions, MAX_REWARD_FUNCTIONS, "reward_function"
            )
        if record.unmapped:
            self._unmapped = self._capped(self._unmapped, record.unmapped, MAX_TRAINER_METRICS, "key")
        self._traces.note_anomalies(record, self._detector.verdicts)
        absorbed_s = self._observe_duration(record)
        self.snapshot = self.snapshot._replace(
            step=record.step,
            time_s=record.time_ns / 1e9,
            values=self._values,
            statistics=statistics,
            reward_functions=self._reward_functions,
            unmapped=self._unmapped,
            nonfinite=self._nonfinite,
            health=self._scored(statistics),
            verdicts=self._detector.verdicts,
            streaks=self._detector.streaks,
            anomaly_traces=self._traces.of_anomalies,
            durations=self._histograms.copy(),
            tokens=self.snapshot.tokens + tokens,
            truncated_tokens=self._waste.truncated_tokens,
            wasted=self._waste.seconds,
            skipped_steps=skipped_steps,
            stall_threshold_s=self.limits.step_s,
            absorbed_s=absorbed_s,
            dropped=self._dropped.copy(),
            telemetry_s=telemetry_s,
        )
        self._deliver(record, statistics, anomalies)
        return anomalies

    def failed_step(self, record: StepRecord) -> list[Anomaly]:
        """Training raised inside this step: keep what is known of it, and judge only what is not finite."""
        self._count_nonfinite(record)
        anomalies: list[Anomaly] = []
        with faults.isolated("detection", "judging the step that failed"):
            anomalies = self._answered(self._detector.observe(record, {}))
        self.snapshot = self.snapshot._replace(
            nonfinite=self._nonfinite,
            health=self._scored(self.snapshot.statistics),
            verdicts=self._detector.verdicts,
        )
        self._deliver(record, {}, anomalies, failed=True)
        return anomalies

    def evaluation(self, values: Mapping[str, float], step: int, time_s: float) -> None:
        """An evaluation has ended; on the background thread."""
        snapshot = self.snapshot
        self.snapshot = snapshot._replace(
            evaluation={**snapshot.evaluation, **values}, evaluations=snapshot.evaluations + 1
        )
        self._journal.write({"type": "evaluation", "step": step, "time": time_s, "values": dict(values)})

    def checkpoint(self, step: int, path: str) -> None:
        """A checkpoint has been saved."""
        record = {"type": "checkpoint", "step": step, "time": time.time(), "path": path}
        self._background.submit(self._checkpointed, record)

    def flush(self, timeout_s: float) -> None:
        """Hand on what is queued, within a bound."""
        self._background.submit(self._traces.release)
        self._background.flush(timeout_s)
        self._traces.flush(timeout_s)

    @property
    def end_of_run(self) -> RunEnd | None:
        """The run's end, or the one that is announced; None while it goes on."""
        return self._end or self._announced

    def announce(self, outcome: Outcome, reason: str, step: int) -> None:
        """The run is about to end after ``step``. A further step takes that back. Takes no lock, waits for
        nothing."""
        self._announced = RunEnd(outcome, time.time_ns(), step, reason)

    def close_ledger(self, phase_seconds: Mapping[str, float], gpus: int, step: int) -> None:
        """Write where the time went, and say what of it was in vain, after the steps that are queued."""
        self._background.submit(self._close_ledger, dict(phase_seconds), gpus, step)

    def end(
        self, outcome: Outcome, reason: str = "", step: int | None = None, timeout_s: float = 5.0
    ) -> None:
        """The run has ended, with ``step`` the last whole one, by default the last published. Steps that are
        queued are published before that, for which ``timeout_s`` is the bound."""
        time_ns = time.time_ns()
        self._drained = self._background.flush(timeout_s)
        time_ns = max(
            time_ns, int(self.snapshot.time_s * 1e9)
        )  # no earlier than progress, whatever the clock did
        self._end = RunEnd(outcome, time_ns, self.snapshot.step if step is None else step, reason)
        self._background.submit(self._journal.end_epoch)
        self.note(end_record(self._end))

    def close(self, timeout_s: float = 5.0) -> None:
        """Hand on what is queued and end the background thread, within twice ``timeout_s``; in half of that
        where the thread has been hanging already."""
        self._background.submit(self._journal.close)
        self._background.submit(self._traces.end)
        self._background.submit(self._traces.close_file)
        self._background.stop(timeout_s if self._drained else 0.0)
        self._traces.close(timeout_s)

    # --- at scrape time, on another thread

    def telemetry(self, scrapes: int, scrape_s: float) -> TelemetryCounts:
        """What telemetry cost and lost so far."""
        dropped = {"background": self._background.dropped}
        if self._journal.dropped is not None:
            dropped["journal"] = self._journal.dropped
        if self._traces.dropped is not None:
            dropped["traces"] = self._traces.dropped
        return TelemetryCounts(
            queued=self._background.queued,
            dropped=dropped,
            journal_bytes=self._journal.bytes_written,
            spans_exported=self._traces.exported,
            kept_steps=self._traces.kept,
            scrapes=scrapes,
            scrape_s=scrape_s,
        )

    # --- on the background thread, like step(): only one thread may replace the snapshot

    def _begin(self, config: dict[str, Any], resumed_s: float | None) -> None:
        record = run_record(self.identity, config)
        with faults.isolated("sources", "looking at the environment"):
            record["environment"] = environment()
        if self.identity.attempt > 1:
            lost = self._journal.lost_seconds(self.identity.run_id, resumed_s)
            self._waste.add_restart(lost)
            record |= {"lost_s": round(lost, 3)} if lost else {}
        self.snapshot = self.snapshot._replace(wasted=self._waste.seconds)
        self._journal.write(record)

    def _checkpointed(self, record: dict[str, Any]) -> None:
        snapshot, saved = self.snapshot, (record["step"], record["time"])
        self.snapshot = snapshot._replace(
            checkpoints=snapshot.checkpoints + 1,
            last_checkpoint=saved,
            saved=(*snapshot.saved, saved)[-CHECKPOINTS_KEPT_IN_MIND:],
        )
        self._journal.write(record)

    def _close_ledger(self, phase_seconds: dict[str, float], gpus: int, step: int) -> None:
        self._waste.devices = gpus
        self._journal.write(ledger_record(phase_seconds, self._waste.seconds, gpus, step))
        for sentence in self._waste.sentences() if self.identity.rank == 0 else ():
            logger.info("run %s: %s", self.identity.run_id, sentence)

    def analysed(self, analysis: Analysis) -> None:
        """A saved checkpoint has been analysed: show it at once, though rules see it at the next step."""
        self._journal.write(checkpoint_analysis_record(analysis))
        if analysis.error:
            return
        self._values = {**self._values, **signals(analysis)}
        self.snapshot = self.snapshot._replace(values=self._values)
        self._traces.export_checkpoint(analysis)
        if any(one["severity"] == Severity.CRITICAL for one in analysis.findings):
            logger.warning("health %.2f of %s", analysis.health, analysis.sentence)

    # --- parts of a step

    def _judged(self, record: StepRecord) -> tuple[dict[str, Statistics], list[Anomaly]]:
        """A fault of detection must not look like a run without progress."""
        with faults.isolated("detection", "judging a step"):
            statistics = self._baselines.observe(record.kind, record.values)
            return statistics, self._answered(self._detector.observe(record, statistics))
        return {}, []  # type: ignore[unreachable]  # isolated() may swallow the exception

    def _account(self, record: StepRecord, duration: Statistics | None) -> None:
        with faults.isolated("detection", "accounting for a step's time"):
            usual = duration.baseline if duration is not None else None
            if (
                usual is None
            ):  # no baseline yet, though the watch for stalls knows what is usual from the second step on
                usual = self.limits.usual_s
            account(record, usual, self.snapshot.stall_threshold_s)
            self._waste.add_step(record.rollout_s, record.wasted, record.truncated_tokens)

    def _observe_duration(self, record: StepRecord) -> float:
        """Learn how long a step takes; returns what evaluations and checkpoints have taken by its end."""
        before, planned = self.snapshot.absorbed_s, self.snapshot.planned_steps
        after = before if record.absorbed_s is None else record.absorbed_s
        working_s = max(0.0, record.duration_s - (after - before))
        with faults.isolated("background", "learning how long a step takes"):
            self.limits.observe(record.kind.value, working_s, last=0 < planned <= record.step)
        return after

    def _scored(self, statistics: Mapping[str, Statistics]) -> Health:
        """Health now: of the latest values and verdicts."""
        if self._health_scores is None:
            return Health()
        with faults.isolated("detection", "scoring a step's health"):
            return self._health_scores.observe(self._values, statistics, self._detector.verdicts)
        return Health()  # type: ignore[unreachable]  # isolated() may swallow the exception

    def _answered(self, anomalies: list[Anomaly]) -> list[Anomaly]:
        if self.answer is None:
            return anomalies
        with faults.isolated("actions", "answering anomalies"):
            return [self.answer(anomaly) for anomaly in anomalies]
        return anomalies  # type: ignore[unreachable]  # isolated() may swallow the exception

    def _count_nonfinite(self, record: StepRecord) -> None:
        for name, count in record.nonfinite.items():
            if name in self._nonfinite:
                self._nonfinite = {**self._nonfinite, name: self._nonfinite[name] + count}

    def _count_duration(self, kind: StepKind, duration: float) -> None:
        before = self._histograms.get(kind)
        counts = list(before.counts) if before else [0] * (len(STEP_DURATION_BUCKETS) + 1)
        counts[bisect_left(STEP_DURATION_BUCKETS, duration)] += 1
        total = (before.total if before else 0.0) + duration
        self._histograms[kind.value] = HistogramState(tuple(counts), total, self._traces.exemplars.get(kind))

    def _capped(
        self, known: dict[str, Any], fresh: Mapping[str, Any], cap: int, label: str
    ) -> dict[str, Any]:
        merged = {**known, **fresh}
        if len(merged) > cap:
            kept = list(merged)[:cap]
            self._dropped[label] = max(self._dropped[label], len(merged) - cap)
            merged = {name: merged[name] for name in kept}
        return merged

    # --- exporters

    def _deliver(
        self,
        record: StepRecord,
        statistics: dict[str, Statistics],
        anomalies: list[Anomaly],
        failed: bool = False,
    ) -> None:
        self._journal.step(record, anomalies, whole=not failed)
        self._traces.offer(record, statistics.get("step_duration"), anomalies, failed)
        if self._health_scores is not None:
            self._journal.health(self.snapshot.health, record.step, record.time_ns)
