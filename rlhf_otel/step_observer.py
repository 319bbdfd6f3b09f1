"""What becomes of a noted step on the background thread: a record with all that is known, judged and told."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from rlhf_otel import faults
from rlhf_otel.assembly import Assembler, RawStep
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.checkpoints.process import CheckpointAnalysis
from rlhf_otel.guard.of_a_run import RunGuard
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.profiling.of_a_run import RunProfiling
from rlhf_otel.records import Anomaly, StepRecord
from rlhf_otel.reward_model.of_a_run import RunRewards
from rlhf_otel.sources import expectations
from rlhf_otel.sources.checkpoint_room import CheckpointRoom
from rlhf_otel.sources.system import SystemSampler
from rlhf_otel.sources.wall_clock import WallClock

logger = logging.getLogger("rlhf_otel")


class StepObserver:
    """Observes the steps of one run, in their order."""

    def __init__(
        self,
        pipeline: Pipeline,
        assembler: Assembler,
        system: SystemSampler,
        checkpoints: CheckpointRoom,
        analysis: CheckpointAnalysis | None,
        guard: RunGuard | None,
        profiling: RunProfiling,
        rewards: RunRewards | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._assembler = assembler
        self._system = system
        self._checkpoints = checkpoints
        self._analysis = analysis
        self._guard = guard
        self._profiling = profiling
        self._rewards = rewards
        self._wall_clock = WallClock()
        self._looked_for_keys = False
        self._told_of_keys = False

    def log(self, logs: Mapping[Any, Any], step: int) -> None:
        """The trainer has logged."""
        evaluation = self._assembler.log(logs, step)
        if evaluation:
            self._pipeline.evaluation(evaluation, step, time.time())

    def step(self, raw: RawStep) -> None:
        """A step has ended."""
        record, tokens = self._assembled(raw)
        with faults.isolated("sources", "reading system signals"):
            record.values.update(self._system.signals())
        with faults.isolated("sources", "reading growth of memory"):
            record.values.update(self._system.growth(record.step))
        record.values.update(self._checkpoints.signals(record.step))
        if self._analysis is not None:
            record.values.update(self._analysis.signals())
            self._analysis.add_findings(record)
        if self._rewards is not None:
            self._rewards.observe(record)
        self._guarded(record)
        with faults.isolated("actions", "looking for requests of profiles"):
            self._profiling.observe(record)
        self._look_for_keys(record)
        if jumped := self._wall_clock.jump_s(raw.time_ns, raw.end_ns):
            logger.warning(
                "the clock of this host jumped by %+.0f s at step %d: timestamps follow, durations do not",
                jumped,
                raw.step,
            )
        _announce(self._pipeline.step(record, tokens, raw.telemetry_ns / 1e9, raw.skipped_steps))

    def failed_step(self, raw: RawStep) -> None:
        """Training raised inside this step."""
        record, _ = self._assembled(raw)
        self._guarded(record)
        _announce(self._pipeline.failed_step(record))

    def _assembled(self, raw: RawStep) -> tuple[StepRecord, float]:
        """The step's record; if that fails, one with its times alone: a fault of ours is no lack of progress."""
        try:
            return self._assembler.assemble(raw)
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("sources", error, "reading a step's parts")
        times = raw.start_ns, raw.end_ns, raw.time_ns
        return StepRecord(raw.step, raw.epoch or 0.0, StepKind.GENERATE, *times), 0.0

    def _look_for_keys(self, record: StepRecord) -> None:
        """Tell once of what a first step lacks that it should have, and once of keys that nobody knows."""
        algorithm, sentence = self._pipeline.identity.algorithm, ""
        if not self._looked_for_keys:
            self._looked_for_keys = True
            sentence = expectations.missing(record, algorithm)
            self._told_of_keys = bool(sentence)
        if not self._told_of_keys and not sentence and record.unmapped:
            sentence = expectations.unfamiliar(record.unmapped, algorithm)
            self._told_of_keys = bool(sentence)
        if sentence:
            logger.warning(sentence)

    def _guarded(self, record: StepRecord) -> None:
        if self._guard is not None:
            with faults.isolated("actions", "noting what the guard did"):
                self._guard.observe(record)


def _announce(anomalies: Iterable[Anomaly]) -> None:
    for anomaly in anomalies:
        logger.warning(sentence(anomaly))


def sentence(anomaly: Anomaly) -> str:
    """An anomaly as people are told it: what, how much, since when, why and what to do."""
    usual = "" if anomaly.baseline is None else f", usually {anomaly.baseline:.4g}"
    unit = SIGNAL_BY_NAME[anomaly.signal].unit if anomaly.signal in SIGNAL_BY_NAME else ""
    unit = "" if unit in ("1", "ratio") else f" {unit}"
    detail = f"{anomaly.detail}. " if anomaly.detail else ""
    return (
        f"{anomaly.rule} ({anomaly.severity}) at step {anomaly.step}: {anomaly.signal} is "
        f"{anomaly.value:.4g}{unit}{usual}; since step {anomaly.first_step}. {detail}{anomaly.cause} "
        f"{anomaly.remedy}"
    )
