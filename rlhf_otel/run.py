"""A run: the sources of one trainer, joined to a pipeline.

It turns the trainer's events into raw steps, which the background thread assembles and judges. A step reaches
from the end of the one before it to its own end, so that evaluation, checkpoints and data loading, which lie
between two steps of the trainer, belong to one.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TypeVar

from rlhf_otel import faults, resumption, serving
from rlhf_otel.actions.of_a_run import RunActions
from rlhf_otel.assembly import Assembler, RawStep
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.checkpoints.process import CheckpointAnalysis
from rlhf_otel.guard.of_a_run import RunGuard
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import Anomaly, RunIdentity, RunView, StepRecord
from rlhf_otel.settings import Settings
from rlhf_otel.sources import expectations, ppo_cells, profiling_seam
from rlhf_otel.sources.agreement import Agreement, next_key
from rlhf_otel.sources.checkpoint_room import CheckpointRoom, planned_interval
from rlhf_otel.sources.groups import Generation, last_generation
from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder, PhaseTotals
from rlhf_otel.sources.reward_range import RewardRange
from rlhf_otel.sources.run_identity import identify
from rlhf_otel.sources.samples import Samples
from rlhf_otel.sources.scalars import ScalarReader
from rlhf_otel.sources.step_metrics import StepMetrics
from rlhf_otel.sources.system import SystemSampler
from rlhf_otel.sources.trainer_seams import TrainerSeams
from rlhf_otel.sources.wall_clock import WallClock

logger = logging.getLogger("rlhf_otel")

ANALYSIS_S = 20.0
"""Bound for the analysis of the last checkpoint when a run has finished."""
FLUSH_S = 5.0
"""Bound for handing on what is queued when a run ends: once for steps, once for spans."""

_T = TypeVar("_T")


class Run:
    """Observes one run of ``trainer``, or of an unknown trainer (None) by its callback events alone."""

    def __init__(self, trainer: Any, settings: Settings, resumed: Mapping[str, Any] | None = None) -> None:
        """``resumed`` is what :meth:`_save_state` left in the checkpoint that training goes on from; empty when
        it left nothing there, None at a fresh start."""
        self.settings = settings
        self._resumed = resumed or {}
        self.recorder = PhaseRecorder()
        self.scalars = ScalarReader()
        self.system = SystemSampler(settings.system_interval_s, ordinal=_own_device(trainer))
        self.metrics = StepMetrics(trainer)
        self.seams = TrainerSeams(trainer, self.recorder, self.scalars)
        self._trainer = trainer
        identity = identify(settings, trainer, resumed)
        self.pipeline = Pipeline(identity, settings, _files_directory(settings, trainer))
        self.actions = self._actions()
        self.guard = self._guard()
        self.analysis = self._analysis()
        self._push: Any = None
        self._wall_clock = WallClock()
        self._step_start_ns = perf_counter_ns()
        self._optimizer: OpenInterval | None = None
        self._learning_rate: float | None = None
        self._assembler: Assembler | None = None
        self._keeps_lists = False
        self._samples: Samples | None = None
        self._last_step = 0
        self._skipped = 0
        self._telemetry_ns = 0
        self._started_ns = self._step_start_ns
        self._ended_ns = 0
        self._process = os.getpid()
        self._other_seconds_shown = 0.0
        self._checkpoints: CheckpointRoom | None = None
        self._looked_for_keys = False
        self._told_of_keys = False

    @property
    def _run_identity(self) -> RunIdentity:
        return self.pipeline.identity

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return bool(self._ended_ns)

    @property
    def last_step(self) -> int:
        """The last whole step."""
        return self._last_step

    # --- events, on the training thread

    def start(self, planned_steps: int, step: int, tokens: float) -> None:
        """Training begins."""
        expectations.warn_of_versions()
        self.recorder.adopt_thread()
        self._process = os.getpid()
        atexit.register(self.abandoned)
        self._keeps_lists = self.metrics.available
        self._last_step = step
        algorithm = self._run_identity.algorithm
        self._samples = self._sample_signals()
        self._assembler = Assembler(
            self.recorder,
            self.metrics,
            tokens,
            algorithm,
            ppo_cells.of(self._trainer, algorithm),
            self._samples,
        )
        directory = Path(getattr(getattr(self._trainer, "args", None), "output_dir", None) or ".")
        self._checkpoints = CheckpointRoom(planned_interval(self._trainer, planned_steps), directory, step)
        self.seams.attach()
        if self.guard is not None:
            self.guard.attach()
        profiling_seam.install()
        profiling_seam.activate(self.recorder, self.seams.reward_function_names)
        self.system.start()
        self._started_ns = perf_counter_ns()
        self.pipeline.resume(self._resumed.get("baselines"))
        told = self.pipeline.identity.agreed
        if not told:
            agreement = Agreement.of_this_job()
            self.pipeline.submit(self._agree, agreement, next_key())  # before any step: the queue is in order
        self.pipeline.start(planned_steps, step, _config(self._trainer))
        if told or self.pipeline.identity.rank == 0:
            self._expose()
        self._step_start_ns = perf_counter_ns()

    def before_optimizer(self, optimizer: Any) -> None:
        """The optimizer is about to step."""
        if optimizer is not None:
            self._learning_rate = float(optimizer.param_groups[0]["lr"])
        self._optimizer = self.recorder.begin("optimizer")

    def after_optimizer(self) -> None:
        """The optimizer has stepped, or skipped."""
        if self._optimizer is not None:
            self.recorder.end(self._optimizer)
            self._optimizer = None
        accelerator = getattr(self._trainer, "accelerator", None)
        if getattr(accelerator, "optimizer_step_was_skipped", False):
            self._skipped += 1

    def end_step(self, step: int, epoch: float | None) -> None:
        """A step has ended: note what there is, compute nothing."""
        entered = perf_counter_ns()
        self.pipeline.submit(self._observe, self._raw_step(step, epoch, entered))
        self._step_start_ns, self._last_step = entered, step
        spent = perf_counter_ns() - entered
        self._telemetry_ns += spent
        self.recorder.add_seconds("telemetry", spent * 1e-9)

    def logged(self, logs: Mapping[Any, Any], step: int) -> None:
        """The trainer has logged: evaluation values, or values of a step that are in no per-step list."""
        self.pipeline.submit(self._log, dict(logs), step, time.time())

    def saved(self, step: int, path: str) -> None:
        """A checkpoint has been saved."""
        self.pipeline.checkpoint(step, path)
        if self.pipeline.identity.rank == 0:
            self.pipeline.submit(self._save_state, step, Path(path))

    def interrupt(self) -> None:
        """SIGTERM has arrived: say so at once, and take it back if training goes on all the same."""
        self.pipeline.announce(Outcome.INTERRUPTED, "SIGTERM", self._last_step)
        if self._push is not None:
            self._push.push(0.0)  # begun, and not waited for: the user's handler may need the time

    def end(self, outcome: Outcome, reason: str = "") -> None:
        """Training has ended. Harmless when called again."""
        if self._ended_ns:
            return
        self._ended_ns = perf_counter_ns()
        atexit.unregister(self.abandoned)
        if self.actions is not None and self.actions.steering.stopped_because:
            outcome, reason = (
                Outcome.INTERRUPTED,
                f"stopped by an action: {self.actions.steering.stopped_because}",
            )
        if outcome is Outcome.FAILED:
            with faults.isolated("callback", "recording the step that failed"):
                self.pipeline.submit(self._observe_failed, self._failed_step())
        profiling_seam.activate(None)
        if self.guard is not None:
            self.guard.detach()
        self.seams.detach()
        self.system.stop()
        if self.actions is not None:
            with faults.isolated("actions", "ending the actions"):
                self.actions.close(self.pipeline.flush)
        self._end_analysis(outcome)
        self.pipeline.end(outcome, reason, self._last_step, FLUSH_S)
        serving.ended(self, self.settings.linger_s)
        self.pipeline.close(FLUSH_S)
        if self._push is not None:
            self._push.push(FLUSH_S, last=True)

    def _end_analysis(self, outcome: Outcome) -> None:
        """Wait for the analysis of the last checkpoint, unless the process is in a hurry."""
        if self.analysis is None:
            return
        with faults.isolated("checkpoints", "ending the analysis of checkpoints"):
            if outcome is Outcome.FINISHED:
                self.pipeline.flush(FLUSH_S)  # it may still be on its way to the analysis
            self.analysis.close(ANALYSIS_S if outcome is Outcome.FINISHED else 0.0)

    def abandoned(self) -> None:
        """The process ends while this run is still going on, as after ``sys.exit`` in a callback.

        It may have failed unseen: where the trainer was found only in the midst of its ``train()``, as with PPO and
        ``trainer.add_callback``, only the interpreter knows of an exception that nobody caught.
        """
        if os.getpid() != self._process:  # a forked child that took this over
            return
        error = getattr(sys, "last_value", None)
        if isinstance(error, Exception):
            self.end(Outcome.FAILED, f"{type(error).__name__}: {error}"[:500])
        else:
            self.end(Outcome.INTERRUPTED, "the process ended")

    # --- at scrape time

    def view(self) -> RunView:
        """The run as a scrape sees it now."""
        counts = self.seams.reward_functions
        phases = self._phase_totals()
        return RunView(
            self._run_identity,
            self.pipeline.snapshot,
            _trl_version(),
            phases.seconds,
            phases.counts,
            phases.function_seconds,
            dict(counts.none),
            dict(counts.errors),
            dict(counts.nonfinite),
            self.system.latest,
            self.pipeline.telemetry(*serving.scrapes()),
            self.pipeline.end_of_run,
            actions=self.actions.counts if self.actions is not None else {},
            checkpoint=self.analysis.latest if self.analysis is not None else None,
            checkpoint_analyses=dict(self.analysis.outcomes) if self.analysis is not None else {},
            updates_dropped=self.guard.dropped if self.guard is not None else None,
        )

    def _phase_totals(self) -> PhaseTotals:
        """Totals by phase, with the open phases so far; "other" is what is left of the run's wall time.

        None is ever less than at the scrape before: what moves from "other" to a phase only when that ends
        makes "other" wait.
        """
        now = self._ended_ns or perf_counter_ns()
        totals = self.recorder.totals(now)
        seconds = totals.seconds
        rest = max(0.0, (now - self._started_ns) * 1e-9 - sum(seconds.values()))
        seconds["other"] = self._other_seconds_shown = max(seconds["other"] + rest, self._other_seconds_shown)
        return totals

    def _sample_signals(self) -> Samples | None:
        if self.settings.samples != "on":
            return None
        rewards = RewardRange()
        with faults.isolated("detection", "restoring the range of rewards"):
            rewards = RewardRange(self._resumed.get("reward_range") or ())
        return Samples(bool(getattr(self._trainer, "mask_truncated_completions", False)), rewards)

    def _guard(self) -> RunGuard | None:
        if self.settings.guard == "off":
            return None
        pipeline, directory = self.pipeline, _directory(self.settings, self._trainer)
        return RunGuard(self.settings, self._trainer, lambda: pipeline.identity, directory, pipeline.submit)

    def _analysis(self) -> CheckpointAnalysis | None:
        """On one rank: all ranks save the same weights, or parts of the same files."""
        if self.settings.checkpoints == "off" or self.pipeline.identity.rank != 0:
            return None
        pipeline, model = self.pipeline, Path(self.pipeline.identity.model or "?")
        reference = model if model.is_dir() else None
        return CheckpointAnalysis(lambda found: pipeline.submit(pipeline.analysed, found), reference)

    def _actions(self) -> RunActions | None:
        if not self.settings.actions:
            return None
        pipeline, directory = self.pipeline, _directory(self.settings, self._trainer)
        actions = RunActions(
            self.settings, lambda: pipeline.identity, directory, pipeline.submit, pipeline.note, _sentence
        )
        pipeline.answer = actions.answer
        return actions

    # --- parts of a step

    def _raw_step(self, step: int, epoch: float | None, now: int) -> RawStep:
        keeps_lists = self._keeps_lists
        return RawStep(
            step,
            epoch,
            self._step_start_ns,
            now,
            time.time_ns(),
            _read("the trainer's lists", self.metrics.take, []) if keeps_lists else None,
            _read("scalars", self.scalars.take, []),
            self._learning_rate,
            _read("groups", self._generation, None) if keeps_lists else None,
            self.seams.reward_functions.take_nonfinite(),
            self.recorder.end_step(),
            self._skipped,
            self._telemetry_ns,
            self.seams.reward_functions.take_errors(),
        )

    def _generation(self) -> Generation | None:
        return last_generation(self._trainer, self._samples is not None) if self.metrics.generated() else None

    def _failed_step(self) -> RawStep:
        return self._raw_step(self._last_step + 1, None, perf_counter_ns())

    def _expose(self) -> None:
        port = self.settings.metrics_port
        self._begin_push()
        if port != "off":
            local_rank = self.pipeline.identity.local_rank
            serving.expose(self, self.settings.metrics_host, port + local_rank if port else 0)

    def _begin_push(self) -> None:
        interval = self.settings.push_interval_s
        if interval == "off" or self.ended:
            return
        with faults.isolated("endpoint", "setting up the push of metrics"):
            from rlhf_otel.exporters.otlp_metrics import MetricsPush

            self._push = MetricsPush.from_environment(self._run_identity, lambda: [self.view()], interval)
            self._push.start()

    # --- on the background thread

    def _agree(self, agreement: Agreement | None, key: str) -> None:
        """Rank 0 tells the others its run id and attempt; they expose nothing before they know."""
        identity = self.pipeline.identity
        if identity.rank == 0:
            if agreement is not None:
                agreement.tell(key, json.dumps({"run_id": identity.run_id, "attempt": identity.attempt}))
            return
        with faults.isolated("callback", "asking rank 0 for the run id"):
            heard = agreement.hear(key) if agreement is not None else None
            if heard is not None:
                self.pipeline.identify(**json.loads(heard))
            elif agreement is not None:
                raise TimeoutError(
                    f"rank 0 did not say; this rank is {identity.run_id!r}: set RLHF_OTEL_RUN_ID"
                )
        self._expose()

    def _save_state(self, step: int, checkpoint: Path) -> None:
        if self._checkpoints is not None:
            self._checkpoints.saved(step, checkpoint)
        identity = self.pipeline.identity
        state: dict[str, Any] = {"run_id": identity.run_id, "attempt": identity.attempt, "step": step}
        if self._samples is not None:
            state["reward_range"] = self._samples.rewards.state()
        resumption.save(checkpoint, {**state, "baselines": self.pipeline.learnt()})
        if self.analysis is not None:
            self.analysis.submit(step, checkpoint)

    def _log(self, logs: Mapping[Any, Any], step: int, time_s: float) -> None:
        assert self._assembler is not None
        evaluation = self._assembler.log(logs, step)
        if evaluation:
            self.pipeline.evaluation(evaluation, step, time_s)

    def _observe(self, raw: RawStep) -> None:
        record, tokens = self._assembled(raw)
        record.values.update(_read("system signals", self.system.signals, {}))
        record.values.update(_read("growth of memory", lambda: self.system.growth(record.step), {}))
        if self._checkpoints is not None:
            record.values.update(self._checkpoints.signals(record.step))
        if self.analysis is not None:
            record.values.update(self.analysis.signals())
            self.analysis.add_findings(record)
        self._guarded(record)
        self._look_for_keys(record)
        if jumped := self._wall_clock.jump_s(raw.time_ns, raw.end_ns):
            logger.warning(
                "the clock of this host jumped by %+.0f s at step %d: timestamps follow, durations do not",
                jumped,
                raw.step,
            )
        self._announce(self.pipeline.step(record, tokens, raw.telemetry_ns / 1e9, raw.skipped_steps))

    def _look_for_keys(self, record: StepRecord) -> None:
        """Tell once of what a first step lacks that it should have, and once of keys that nobody knows."""
        algorithm, sentence = self._run_identity.algorithm, ""
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
        if self.guard is not None:
            with faults.isolated("actions", "noting what the guard did"):
                self.guard.observe(record)

    def _assembled(self, raw: RawStep) -> tuple[StepRecord, float]:
        """The step's record; if that fails, one with its times alone: a fault of ours is no lack of progress."""
        assembler = self._assembler
        assert assembler is not None
        bare = StepRecord(
            raw.step, raw.epoch or 0.0, StepKind.GENERATE, raw.start_ns, raw.end_ns, raw.time_ns
        )
        return _read("a step's parts", lambda: assembler.assemble(raw), (bare, 0.0))

    def _observe_failed(self, raw: RawStep) -> None:
        record, _ = self._assembled(raw)
        self._guarded(record)
        self._announce(self.pipeline.failed_step(record))

    @staticmethod
    def _announce(anomalies: Iterable[Anomaly]) -> None:
        for anomaly in anomalies:
            logger.warning(_sentence(anomaly))


def _read(what: str, source: Callable[[], _T], otherwise: Any) -> _T:
    """What a source says; one that raises loses its own values and not the step."""
    try:
        return source()
    except Exception as error:  # noqa: BLE001 - faults logs it
        faults.handle("sources", error, f"reading {what}")
        nothing: _T = otherwise
        return nothing


def _sentence(anomaly: Anomaly) -> str:
    usual = "" if anomaly.baseline is None else f", usually {anomaly.baseline:.4g}"
    unit = SIGNAL_BY_NAME[anomaly.signal].unit if anomaly.signal in SIGNAL_BY_NAME else ""
    unit = "" if unit in ("1", "ratio") else f" {unit}"
    detail = f"{anomaly.detail}. " if anomaly.detail else ""
    return (
        f"{anomaly.rule} ({anomaly.severity}) at step {anomaly.step}: {anomaly.signal} is "
        f"{anomaly.value:.4g}{unit}{usual}; since step {anomaly.first_step}. {detail}{anomaly.cause} "
        f"{anomaly.remedy}"
    )


def _files_directory(settings: Settings, trainer: Any) -> Path | None:
    return None if settings.journal == "off" else _directory(settings, trainer)


def _directory(settings: Settings, trainer: Any) -> Path:
    """Where this package keeps its files: the journal's directory, or by the trainer's own output."""
    if isinstance(settings.journal, Path):
        return settings.journal
    output = getattr(getattr(trainer, "args", None), "output_dir", None)
    return Path(output or ".") / "rlhf_otel"


def _own_device(trainer: Any) -> int | None:
    """Of several ranks on a host, the ordinal of this rank's GPU among those that it sees; else None: all."""
    if (getattr(getattr(trainer, "args", None), "world_size", 1) or 1) <= 1:
        return None
    ordinal = getattr(getattr(getattr(trainer, "accelerator", None), "device", None), "index", None)
    return ordinal if isinstance(ordinal, int) else None


def _config(trainer: Any) -> dict[str, Any]:
    """The trainer's arguments, as plain values; secrets are left out by transformers itself."""
    args = getattr(trainer, "args", None)
    plain = getattr(args, "to_sanitized_dict", None)
    found = plain() if plain is not None else {}
    return dict(found) if isinstance(found, dict) else {}


def _trl_version() -> str:
    return str(getattr(sys.modules.get("trl"), "__version__", ""))
