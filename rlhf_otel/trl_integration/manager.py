"""Set up, train, report."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_otel import report
from rlhf_otel.errors import ConfigurationError, ReportError
from rlhf_otel.trl_integration import ppo_scores, trainers
from rlhf_otel.trl_integration.callbacks import PPOMonitoringCallback
from rlhf_otel.trl_integration.config import TRLIntegrationConfig
from rlhf_otel.trl_integration.reward_integrator import RewardModelIntegrator


class TRLIntegrationManager:
    """One monitored training, from a model and a data set to a report.

    ``callbacks`` are further callbacks of the trainer, such as a :class:`TrainingCallback`; ``settings`` are those of
    :class:`rlhf_otel.TelemetryCallback`.
    """

    def __init__(
        self, config: TRLIntegrationConfig | None = None, callbacks: tuple[Any, ...] = (), **settings: Any
    ) -> None:
        self.config = config or TRLIntegrationConfig()
        self.callbacks = callbacks
        self.trainer: Any = None
        self.rewards = (
            RewardModelIntegrator(self.config.logs) if self.config.enable_reward_monitoring else None
        )
        self.monitoring = PPOMonitoringCallback(
            self.config.anomaly_threshold,
            self.config.logs,
            checkpoints="on" if self.config.enable_checkpoint_analysis else "off",
            **{**self._own_settings(), **settings},
        )

    def _own_settings(self) -> dict[str, Any]:
        """What the configuration says of the telemetry; arguments of the same name replace it."""
        traces = {"trace_one_in": 1} if self.config.enable_profiling else {}
        return {**traces, "reward_monitor": self.rewards.monitor if self.rewards is not None else None}

    def setup_trl_trainer(self, model_name: str = "", dataset_name: str = "") -> Any:
        """TRL's trainer for the algorithm; model and data set by hub name or local path, else by the configuration.

        Raises ConfigurationError: one is missing or cannot be loaded, the data lack a column, or TRL lacks the trainer.
        """
        model, dataset = model_name or self.config.model_name, dataset_name or self.config.dataset_name
        if not model or not dataset:
            raise ConfigurationError("give a model and a data set, here or as model_name and dataset_name")
        watched: Callable[..., Any] = self.rewards.wrap if self.rewards is not None else _as_it_is
        callbacks = [*self.callbacks, self.monitoring]
        self.trainer = trainers.build(self.config, model, dataset, callbacks, watched)
        return self.trainer

    def train_with_monitoring(
        self, num_steps: int | None = None, save_checkpoints: bool = True
    ) -> dict[str, Any]:
        """Train, and write journal and reports into the configuration's ``log_dir``.

        ``num_steps`` replaces ``max_steps``. Returns the JSON report with ``reports``, the files, and ``rewards``, what the
        reward monitor says. Raises ConfigurationError before :meth:`setup_trl_trainer`; what training raises is raised.
        """
        if self.trainer is None:
            raise ConfigurationError("call setup_trl_trainer first")
        _plan(self.trainer, num_steps, save_checkpoints)
        with self._watching():
            self.trainer.train()
        rewards = self.rewards.log(int(self.trainer.state.global_step)) if self.rewards is not None else {}
        return {**self.generate_training_report(), "rewards": rewards}

    def generate_training_report(self, directory: str | Path | None = None) -> dict[str, Any]:
        """Write report.json, report.md and, with the extra ``[report]``, report.html; by default beside the journal.

        Returns the JSON report with ``reports``, the files. Raises JournalError where there was no training.
        """
        story = report.read(self.config.logs)
        into = Path(directory) if directory is not None else self.config.logs
        written = [report.write([story], into / name) for name in ("report.json", "report.md")]
        with contextlib.suppress(ReportError):  # without the extra
            written.append(report.write([story], into / "report.html"))
        told: dict[str, Any] = json.loads(written[0].read_text(encoding="utf-8"))
        return {**told, "reports": [str(path) for path in written]}

    def _watching(self) -> contextlib.AbstractContextManager[None]:
        if self.rewards is None or self.config.algorithm != "ppo":
            return contextlib.nullcontext()
        monitor = self.rewards.monitor
        return ppo_scores.watched(self.trainer, lambda scores: monitor.observe("reward_model", scores))


def _plan(trainer: Any, steps: int | None, save: bool) -> None:
    """How long to train, and whether to save. PPO has made its schedule already."""
    args = trainer.args
    args.save_strategy = type(args.save_strategy)("steps" if save else "no")
    if steps is None:
        return
    if hasattr(args, "num_total_batches"):
        args.num_total_batches = steps
        trainer.lr_scheduler = None
        trainer.create_scheduler(num_training_steps=steps, optimizer=trainer.optimizer)
    else:
        args.max_steps = steps


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function
