"""The callbacks: one that observes, and one for users to subclass."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.catalogue.rules import RULES, Comparison, Rule, Statistic
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.replay.readers.trainer_state import SUMMARY
from rlhf_otel.sources.trl_logs import map_logs


class PPOMonitoringCallback(TelemetryCallback):
    """:class:`rlhf_otel.TelemetryCallback` with the arguments that beginners ask for; for any trainer of TRL, not PPO alone.

    ``anomaly_threshold`` is the number of usual deviations at which a spike counts, for all rules of that kind; None leaves
    each rule its own. The lower, the more false alarms: by chance, 2 is passed every twentieth step. Without
    ``enable_detailed_logging`` the journal has no signals of single completions and no reward histograms. ``more``: settings.
    """

    def __init__(
        self,
        anomaly_threshold: float | None = None,
        log_dir: str | Path | None = None,
        enable_detailed_logging: bool = True,
        **more: Any,
    ) -> None:
        if anomaly_threshold is not None:
            more["rules"] = with_threshold(anomaly_threshold, more.get("rules"))
        super().__init__(
            journal=Path(log_dir) if log_dir is not None else None,
            samples="on" if enable_detailed_logging else "off",
            **more,
        )


def with_threshold(deviations: float, rules: Any = None) -> tuple[Rule, ...]:
    """The rules, with those that compare deviations from the usual asking for ``deviations``. Raises ConfigurationError."""
    if not (math.isfinite(deviations) and deviations > 0):
        raise ConfigurationError(f"anomaly_threshold is {deviations!r}: give a number of deviations above 0")
    if rules is not None:
        raise ConfigurationError("anomaly_threshold changes rules, and rules are given too: tune them there")
    return tuple(
        dataclasses.replace(rule, conditions=tuple(_with(one, deviations) for one in rule.conditions))
        for rule in RULES
    )


def _with(condition: Any, deviations: float) -> Any:
    if not isinstance(condition, Comparison) or condition.statistic is not Statistic.ZSCORE:
        return condition
    return dataclasses.replace(condition, threshold=math.copysign(deviations, condition.threshold))


class TrainingCallback(TrainerCallback):
    """A callback of transformers to subclass: with all its events, and the step's signals under one set of names.

    class Stop(TrainingCallback):
        def on_signals(self, step, signals, control):
            control.should_training_stop = signals.get("kl_per_token", 0.0) > 1.0
    """

    algorithm: str = ""
    """Of the trainer, as in ``RunIdentity.algorithm``: the same key means different things in two of them."""

    def on_signals(self, step: int, signals: dict[str, float], control: Any) -> None:
        """Whenever the trainer logs a step of training; ``signals`` by the names of docs/metrics.md."""

    def on_evaluation_signals(self, step: int, signals: dict[str, float], control: Any) -> None:
        """Whenever it logs an evaluation."""

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The trainer's arguments say which it is."""
        self.algorithm = self.algorithm or type(args).__name__.removesuffix("Config").lower()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Hands on what is logged, but for the summary after the last step."""
        if SUMMARY in (logs or {}):
            return
        mapped = map_logs(logs or {}, self.algorithm)
        if mapped.evaluation:
            self.on_evaluation_signals(int(state.global_step), mapped.evaluation, control)
        elif mapped.values:
            self.on_signals(int(state.global_step), mapped.values, control)
