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
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from rlhf_otel import end_report, faults, resumption, serving
from rlhf_otel.assembly import Assembler
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.exporters.protection import Protection
from rlhf_otel.optional_parts import actions_of, analysis_of, guard_of, samples_of
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.profiling.of_a_run import RunProfiling
from rlhf_otel.records import RunIdentity, RunView
from rlhf_otel.reward_model.judgement import Judgement
from rlhf_otel.reward_model.monitor import RewardModelMonitor
from rlhf_otel.reward_model.of_a_run import RunRewards
from rlhf_otel.settings import Settings
from rlhf_otel.sources import expectations, ppo_cells, profiling_seam
from rlhf_otel.sources.agreement import Agreement, next_key
from rlhf_otel.sources.checkpoint_room import CheckpointRoom, planned_interval
from rlhf_otel.sources.device_times import DevicePhaseRecorder, clock_of
from rlhf_otel.sources.ledger import Ledger
from rlhf_otel.sources.phases import PhaseRecorder
from rlhf_otel.sources.run_identity import identify
from rlhf_otel.sources.scalars import ScalarReader
from rlhf_otel.sources.step_metrics import StepMetrics
from rlhf_otel.sources.system import SystemSampler
from rlhf_otel.sources.trainer_seams import TrainerSeams
from rlhf_otel.stalls.of_a_run import RunStalls
from rlhf_otel.step_observer import StepObserver
from rlhf_otel.step_recorder import StepRecorder
from rlhf_otel.trainer_facts import (
    arguments_of,
    files_directory,
    gpus_of_job,
    journal_directory,
    own_device,
    trl_version,
)

logger = logging.getLogger("rlhf_otel")

ANALYSIS_S = 20.0
"""Bound for the analysis of the last checkpoint when a run has finished."""
SIGTERM_S = 1.0
"""Bound for handing on what is queued before the user's handler of SIGTERM: once for steps, once for spans."""
FLUSH_S = 5.0
"""Bound for handing on what is queued when a run ends: once for steps, once for spans."""


class Run:
    """Observes one run of ``trainer``, or of an unknown trainer (None) by its callback events alone."""

    def __init__(
        self,
        trainer: Any,
        settings: Settings,
        resumed: Mapping[str, Any] | None = None,
        reward_monitor: RewardModelMonitor | None = None,
    ) -> None:
        """``resumed`` is what :meth:`_save_state` left in the checkpoint that training goes on from; empty when
        it left nothing there, None at a fresh start."""
        self.settings = settings
        self._resumed = resumed or {}
        clock = clock_of(trainer) if settings.device_times == "on" else None
        self.recorder = DevicePhaseRecorder(clock) if clock is not None else PhaseRecorder()
        self.scalars = ScalarReader()
        self.system = SystemSampler(settings.system_interval_s, ordinal=own_device(trainer))
        self.metrics = StepMetrics(trainer)
        self.seams = TrainerSeams(trainer, self.recorder, self.scalars)
        self._trainer = trainer
        identity = identify(settings, trainer, resumed)
        monitored = reward_monitor is not None and identity.rank == 0
        self.pipeline = Pipeline(identity, settings, journal_directory(settings, trainer), monitored)
        self.rewards = (
            RunRewards(reward_monitor, self.pipeline.note) if monitored and reward_monitor else None
        )
        self.profiling = self._profiling()
        self.actions = actions_of(settings, self.pipeline, self.profiling)
        self.guard = guard_of(settings, trainer, self.pipeline)
        self.analysis = analysis_of(settings, self.pipeline)
        self._push: Any = None
        self._trace_context: Any = None
        self._samples = samples_of(settings, trainer, self._resumed)
        self.steps = StepRecorder(
            trainer,
            self.recorder,
            self.scalars,
            self.metrics,
            self.seams.reward_functions,
            self._samples is not None,
        )
        self._observer: StepObserver | None = None
        self._last_step = 0
        self.ledger = Ledger(self.recorder)
        self.stalls = RunStalls(
            settings,
            self.pipeline,
            self.ledger,
            self.steps,
            lambda: self._last_step,
            journal_directory(settings, trainer),
        )
        self._ended = False
        self._process = os.getpid()
        self._checkpoints: CheckpointRoom | None = None

    @property
    def _run_identity(self) -> RunIdentity:
        return self.pipeline.identity

    @property
    def ended(self) -> bool:
        """Whether it is over, well or not."""
        return self._ended

    @property
    def last_step(self) -> int:
        """The last whole step."""
        return self._last_step

    # --- events, on the training thread

    def start(self, planned_steps: int, step: int, tokens: float) -> None:
        """Training begins."""
        expectations.warn_of_versions()
        self.ledger.begin()  # what follows is time of the run, too
        self.recorder.adopt_thread()
        self._process = os.getpid()
        atexit.register(self.abandoned)
        self._last_step = step
        directory = Path(getattr(getattr(self._trainer, "args", None), "output_dir", None) or ".")
        self._checkpoints = CheckpointRoom(planned_interval(self._trainer, planned_steps), directory, step)
        self._observer = self._observe_steps(tokens, self._checkpoints)
        self.seams.attach()
        if self.seams.follows_rollouts:
            self.steps.take_rollouts = self.seams.rollouts.take
        if self.guard is not None:
            self.guard.attach()
        profiling_seam.install()
        profiling_seam.activate(self.recorder, self.seams.reward_function_names)
        self.system.start()
        self.pipeline.resume(self._resumed.get("baselines"))
        told = self.pipeline.identity.agreed
        agreement, shared = Agreement.of_this_job(), next_key("traces")
        if agreement is not None:
            self.pipeline.traces.share(agreement, shared)
        if not told:
            self.pipeline.submit(self._agree, agreement, next_key())  # before any step: the queue is in order
        self.pipeline.start(planned_steps, step, arguments_of(self._trainer), self._resumed.get("saved_s"))
        if told or self.pipeline.identity.rank == 0:
            self._expose()
        self.pipeline.submit(self.profiling.open)
        self.profiling.install_signal()
        self._enter_trace_context(planned_steps)
        self.steps.start()
        self.stalls.start()

    def end_step(self, step: int, epoch: float | None) -> None:
        """A step has ended: note what there is, compute nothing."""
        observer = self._observer
        assert observer is not None
        self._last_step = step
        self.pipeline.submit(observer.step, self.steps.end_step(step, epoch))
        if self.profiling.capture.due:
            began = perf_counter_ns()
            self.profiling.at_step_end(step)
            self.recorder.add("telemetry", began, perf_counter_ns())

    def logged(self, logs: Mapping[Any, Any], step: int) -> None:
        """The trainer has logged: evaluation values, or values of a step that are in no per-step list."""
        assert self._observer is not None
        self.pipeline.submit(self._observer.log, dict(logs), step)

    def saved(self, step: int, path: str) -> None:
        """A checkpoint has been saved."""
        self.pipeline.checkpoint(step, path)
        if self.pipeline.identity.rank == 0:
            self.pipeline.submit(self._save_state, step, Path(path), time.time())

    def interrupt(self) -> None:
        """SIGTERM has arrived: say so at once, and take it back if training goes on all the same. What is known of whole
        steps is handed on, within a bound: the user's handler may end the process."""
        self.pipeline.announce(Outcome.INTERRUPTED, "SIGTERM", self._last_step)
        if self._push is not None:
            self._push.push(0.0)  # begun, and not waited for: the user's handler may need the time
        self.pipeline.flush(SIGTERM_S)

    def end(self, outcome: Outcome, reason: str = "") -> None:
        """Training has ended. Harmless when called again."""
        if self._ended:
            return
        self._ended = True
        self.ledger.end()
        self.stalls.stop()
        self.recorder.read_device()
        atexit.unregister(self.abandoned)
        if self.actions is not None and self.actions.steering.stopped_because:
            outcome, reason = (
                Outcome.INTERRUPTED,
                f"stopped by an action: {self.actions.steering.stopped_because}",
            )
        if outcome is Outcome.FAILED:
            with faults.isolated("callback", "recording the step that failed"):
                assert self._observer is not None
                failed = self.steps.end_step(self._last_step + 1, None)
                self.pipeline.submit(self._observer.failed_step, failed)
        profiling_seam.activate(None)
        if self._trace_context is not None:
            self._trace_context.leave()
        if self.guard is not None:
            self.guard.detach()
        self.seams.detach()
        self.system.stop()
        with faults.isolated("actions", "ending the profiles"):
            self.profiling.uninstall_signal()
            self.profiling.close_capture(self._last_step)
            self.pipeline.submit(self.profiling.close)
        if self.actions is not None:
            with faults.isolated("actions", "ending the actions"):
                self.actions.close(self.pipeline.flush)
        self._end_analysis(outcome)
        if self.rewards is not None:
            self.pipeline.submit(self.rewards.end, self._last_step)
        self.pipeline.close_ledger(self.ledger.totals().seconds, gpus_of_job(self._trainer), self._last_step)
        self.pipeline.end(outcome, reason, self._last_step, FLUSH_S)
        serving.ended(self, self.settings.linger_s)
        self.pipeline.close(FLUSH_S)
        self.stalls.close()
        if self.settings.report == "on" and self._run_identity.rank == 0:
            directory = files_directory(self.settings, self._trainer)
            end_report.write(directory, wait=outcome is not Outcome.INTERRUPTED)
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
        counts, snapshot = self.seams.reward_functions, self.pipeline.snapshot
        phases, open_phase = self.ledger.totals(), self.ledger.open_phase()
        rewards = self.rewards.latest if self.rewards is not None else Judgement()
        end = self.pipeline.end_of_run
        return RunView(
            self._run_identity,
            snapshot,
            trl_version(),
            phases.seconds,
            phases.counts,
            phases.function_seconds,
            dict(counts.none),
            dict(counts.errors),
            dict(counts.nonfinite),
            self.system.latest,
            self.pipeline.telemetry(*serving.scrapes()),
            end,
            actions=self.actions.counts if self.actions is not None else {},
            checkpoint=self.analysis.latest if self.analysis is not None else None,
            checkpoint_analyses=dict(self.analysis.outcomes) if self.analysis is not None else {},
            rewards=rewards.rewards,
            agreement=rewards.agreement,
            rewards_dropped=rewards.dropped,
            device_seconds=self.recorder.device_seconds,
            updates_dropped=self.guard.dropped if self.guard is not None else None,
            open_phase=open_phase if end is None else None,
            stall_threshold_s=self.stalls.limit_s(snapshot, phases, open_phase),
            stalls=self.stalls.count,
        )

    def _profiling(self) -> RunProfiling:
        pipeline, directory = self.pipeline, files_directory(self.settings, self._trainer)
        signal_name = self.settings.profile_signal
        return RunProfiling(directory, lambda: pipeline.identity, pipeline.submit, pipeline.note, signal_name)

    def _observe_steps(self, tokens: float, checkpoints: CheckpointRoom) -> StepObserver:
        algorithm = self._run_identity.algorithm
        assembler = Assembler(
            self.recorder,
            self.metrics,
            tokens,
            algorithm,
            ppo_cells.of(self._trainer, algorithm),
            self._samples,
        )
        return StepObserver(
            self.pipeline,
            assembler,
            self.system,
            checkpoints,
            self.analysis,
            self.guard,
            self.profiling,
            self.rewards,
        )

    def _enter_trace_context(self, planned_steps: int) -> None:
        if self.pipeline.traces.exporting:
            with faults.isolated("traces", "making the phase the parent of other spans"):
                from rlhf_otel.trace_context import TraceContext

                self._trace_context = TraceContext(
                    self.pipeline.traces, self.recorder, lambda: self._last_step, planned_steps
                )
                self._trace_context.enter()

    def _expose(self) -> None:
        port = self.settings.metrics_port
        self._begin_push()
        if port != "off":
            local_rank = self.pipeline.identity.local_rank
            said = self.settings
            protection = Protection(
                said.metrics_host, said.metrics_allowed_hosts, said.web, said.metrics_web_config
            )
            serving.expose(self, said.metrics_host, port + local_rank if port else 0, protection)

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

    def _save_state(self, step: int, checkpoint: Path, saved_s: float) -> None:
        if self._checkpoints is not None:
            self._checkpoints.saved(step, checkpoint)
        identity = self.pipeline.identity
        state: dict[str, Any] = {"run_id": identity.run_id, "attempt": identity.attempt, "step": step}
        state["saved_s"] = saved_s
        if self._samples is not None:
            state["reward_range"] = self._samples.rewards.state()
        resumption.save(checkpoint, {**state, "baselines": self.pipeline.learnt()})
        if self.analysis is not None:
            self.analysis.submit(step, checkpoint)
