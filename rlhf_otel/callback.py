"""The callback: ``GRPOTrainer(..., callbacks=[TelemetryCallback()])`` is the whole integration.

Callbacks are not handed the trainer. It is found in the frame that calls ``on_init_end``, which every trainer
of transformers does from its constructor. An exception in a callback ends training, so that only two leave
this module, each of which is meant to: ``GuardError``, as training starts, and ``TrainingStopped``, which ends a
trainer that reads no flag.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from transformers import Trainer, TrainerCallback
from transformers.integrations import integration_utils

from rlhf_otel import faults, resumption
from rlhf_otel import settings as settings_module
from rlhf_otel.actions.of_a_run import RunActions
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.errors import ConfigurationError, GuardError, TrainingStopped
from rlhf_otel.exporters.otlp_environment import otlp_destination, otlp_metrics_destination
from rlhf_otel.guard import suitability
from rlhf_otel.instrumentation import register_report_to
from rlhf_otel.resumption import resumed_checkpoint
from rlhf_otel.reward_model.monitor import RewardModelMonitor
from rlhf_otel.run import Run
from rlhf_otel.sigterm import Sigterm

_Method = TypeVar("_Method", bound=Callable[..., Any])

FRAMES_TO_TRAINER: Final = 6
"""Callers that are looked at to find the trainer: the handler's event methods and the constructor."""


def _safe(method: _Method) -> _Method:
    """Let no exception of ours reach the trainer."""

    @functools.wraps(method)
    def safe(self: Any, *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except (TrainingStopped, GuardError):
            raise
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("callback", error, f"handling {method.__name__}")

    return safe  # type: ignore[return-value]  # the wrapper has the wrapped method's signature


class TelemetryCallback(TrainerCallback):
    """Observes a TRL trainer: metrics, spans, rules and journal.

    Arguments are the fields of :class:`rlhf_otel.settings.Settings`; ``config`` names a YAML file with them.
    What is not given comes from the environment (``RLHF_OTEL_*``, ``OTEL_*``), then from the file, then from
    the defaults. ``reward_monitor`` is what watches the trainer's rewards, if anything does.

    Raises:
        ConfigurationError: a setting is unknown, of the wrong type, or impossible; or a standard variable for
            OTLP is.
    """

    def __init__(
        self,
        *,
        config: str | Path | None = None,
        run_id: str | None = None,
        run_name: str | None = None,
        team: str | None = None,
        owner: str | None = None,
        metrics_host: str | None = None,
        metrics_port: int | Literal["off"] | None = None,
        journal: Path | str | None = None,
        reward_monitor: RewardModelMonitor | None = None,
        **more: Any,
    ) -> None:
        self.settings = settings_module.load(
            config,
            run_id=run_id,
            run_name=run_name,
            team=team,
            owner=owner,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            journal=journal,
            **more,
        )
        otlp_destination()  # refuses here what would be wrong with it later
        if self.settings.push_interval_s != "off":
            otlp_metrics_destination()
        if not isinstance(reward_monitor, RewardModelMonitor | None):
            raise ConfigurationError(
                f"reward_monitor is {reward_monitor!r:.60}; give a RewardModelMonitor, whose wrap() watches the functions"
            )
        self._reward_monitor = reward_monitor
        self.handler: Callable[[], Any] | None = None
        """Where ``instrumentation`` added this callback: a weak reference to the trainer's handler."""
        self._trainer: Any = None
        self._run: Run | None = None
        self._sigterm: Sigterm | None = None
        self._unwrap: Callable[[], None] | None = None
        self._resumed_from: Any = None

    @property
    def run(self) -> Run | None:
        """The run in progress, or the last one."""
        return self._run

    # --- events of the trainer

    @_safe
    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the trainer and see how its ``train`` ends: on exceptions ``on_train_end`` is skipped."""
        self.adopt(calling_trainer())

    @_safe
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start observing, unless the trainer was given another callback of this kind after this one."""
        if self._trainer is None:
            self.adopt(calling_trainer())
        if self._superseded():
            return
        settings = self.settings
        if settings.guard != "off":
            suitability.require(self._trainer)
        if self._run is not None and not self._run.ended:  # the same training, again with a smaller batch
            settings = settings.model_copy(update={"run_id": self._run.pipeline.identity.run_id})
            self._end(Outcome.INTERRUPTED, "training was started again")
        checkpoint = resumed_checkpoint(self._resumed_from, args.output_dir, int(state.global_step))
        resumed = resumption.load(checkpoint) if checkpoint is not None else None
        self._run = Run(self._trainer, settings, resumed, self._reward_monitor)
        tokens = float(getattr(state, "num_input_tokens_seen", 0) or 0)
        self._run.start(int(state.max_steps or 0), int(state.global_step), tokens)
        if self._sigterm is not None:
            self._sigterm.uninstall()
        self._sigterm = Sigterm.install(self._run)

    # These five come with every step: no decorator, which would take as long as what they do, and all that the
    # handler passes has a name, since a dict of it takes longer than the call.

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        optimizer: Any = None, lr_scheduler: Any = None, train_dataloader: Any = None,
        eval_dataloader: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """Nothing, in less time than the base class does it."""

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        optimizer: Any = None, lr_scheduler: Any = None, train_dataloader: Any = None,
        eval_dataloader: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """The optimizer is about to step."""
        try:
            if self._run is not None:
                self._run.steps.before_optimizer(optimizer)
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("callback", error, "handling on_pre_optimizer_step")

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        optimizer: Any = None, lr_scheduler: Any = None, train_dataloader: Any = None,
        eval_dataloader: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """The optimizer has stepped."""
        try:
            if self._run is not None:
                self._run.steps.after_optimizer()
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("callback", error, "handling on_optimizer_step")

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        optimizer: Any = None, lr_scheduler: Any = None, train_dataloader: Any = None,
        eval_dataloader: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """A step has ended."""
        run = self._run
        try:
            if run is not None:
                run.end_step(state.global_step, state.epoch)
                if run.actions is not None:
                    self._act(run.actions, state.global_step, control)
        except TrainingStopped:
            raise
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("callback", error, "handling on_step_end")

    def on_log(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None,
        optimizer: Any = None, lr_scheduler: Any = None, train_dataloader: Any = None,
        eval_dataloader: Any = None, logs: Any = None, **more: Any,
    ) -> None:  # fmt: skip
        """The trainer has logged."""
        try:
            if self._run is not None and isinstance(logs, dict):
                self._run.logged(logs, state.global_step)
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("callback", error, "handling on_log")

    @_safe
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A checkpoint has been saved."""
        if self._run is not None:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._run.saved(int(state.global_step), str(path))

    @_safe
    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Training has ended well, or was asked to stop: by SIGTERM, if steps are missing since."""
        stopped_short = int(state.global_step) < int(state.max_steps or 0)
        if stopped_short and self._sigterm is not None and self._sigterm.received:
            self._end(Outcome.INTERRUPTED, "SIGTERM")
        else:
            self._end(Outcome.FINISHED)

    # --- parts

    def _act(self, actions: RunActions, step: int, control: Any) -> None:
        """Let actions steer the trainer. Raises TrainingStopped out of one that reads no flag."""
        try:
            actions.at_step_end(step, control)
        except TrainingStopped:
            self._end(Outcome.INTERRUPTED)  # here, since the loop may have been entered before we saw train()
            raise

    def adopt(self, trainer: Any) -> None:
        """Observe ``trainer``: see where its ``train`` resumes from and how it ends."""
        if trainer is None or trainer is self._trainer:
            return
        self.detach()
        self._trainer = trainer
        original = trainer.train

        @functools.wraps(original)
        def train(*args: Any, **kwargs: Any) -> Any:
            self._resumed_from = kwargs.get("resume_from_checkpoint", args[0] if args else None)
            try:
                return original(*args, **kwargs)
            except TrainingStopped:
                return None
            except BaseException as error:
                self._raised(error)
                raise

        before = vars(trainer).get("train")
        trainer.train = train

        def unwrap() -> None:
            if vars(trainer).get("train") is not train:
                return  # somebody wrapped it after us: theirs stays
            if before is None:
                del trainer.train
            else:
                trainer.train = before

        self._unwrap = unwrap

    def detach(self) -> None:
        """Leave the trainer as it was; a run in progress ends as interrupted."""
        if self._run is not None and not self._run.ended:
            self._end(Outcome.INTERRUPTED, "no longer observed")
        if self._sigterm is not None:
            self._sigterm.uninstall()
        if self._unwrap is not None:
            self._unwrap()
        self._unwrap = self._trainer = self._sigterm = None

    def _superseded(self) -> bool:
        """Whether another callback of this kind was given after this one: the last observes."""
        callbacks = getattr(getattr(self._trainer, "callback_handler", None), "callbacks", [])
        ours = [callback for callback in callbacks if isinstance(callback, TelemetryCallback)]
        return bool(ours) and ours[-1] is not self

    @_safe
    def _raised(self, error: BaseException) -> None:
        reason = f"{type(error).__name__}: {error}"[:500]
        if self._sigterm is not None and self._sigterm.taking_effect:
            self._end(Outcome.INTERRUPTED, f"SIGTERM, then {reason}")
            return
        if isinstance(error, Exception) and self._sigterm is not None and self._sigterm.is_last:
            # Once a rank has failed, its launcher sends SIGTERM, mostly before Prometheus has seen how it ended: the
            # handler stays, and waits for that.
            if self._run is not None:
                self._run.end(Outcome.FAILED, reason)
            return
        # KeyboardInterrupt and SystemExit are somebody's wish.
        self._end(Outcome.FAILED if isinstance(error, Exception) else Outcome.INTERRUPTED, reason)

    def _end(self, outcome: Outcome, reason: str = "") -> None:
        if self._sigterm is not None:
            self._sigterm.uninstall()
            self._sigterm = None
        if self._run is not None:
            self._run.end(outcome, reason)


def calling_trainer() -> Any:
    """The trainer among the callers of an event method; None without one."""
    frame = inspect.currentframe()
    for _ in range(FRAMES_TO_TRAINER):
        frame = frame.f_back if frame is not None else None
        if frame is None:
            return None
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, Trainer):
            return candidate
    return None


register_report_to(integration_utils)
