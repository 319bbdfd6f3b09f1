"""What the training thread notes of each step: references, counts and clock readings, and nothing is computed.

This runs between two steps of training, so that every line counts: what is looked up once is looked up at the
start, and what may be absent is asked for only where it can be there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.assembly import RawStep
from rlhf_otel.records import Rollouts, make_tuple
from rlhf_otel.sources.groups import buffers_of, group_size_of, last_generation
from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder
from rlhf_otel.sources.reward_functions import RewardFunctionCounts
from rlhf_otel.sources.scalars import Reading, ScalarReader
from rlhf_otel.sources.step_metrics import StepMetrics

_NO_ROLLOUTS: Final[tuple[Rollouts, ...]] = ()
_NONE: Final[Mapping[str, int]] = {}


class StepRecorder:
    """Notes the steps of one trainer; on the training thread."""

    def __init__(
        self,
        trainer: Any,
        phases: PhaseRecorder,
        scalars: ScalarReader,
        metrics: StepMetrics,
        functions: RewardFunctionCounts,
        samples: bool,
    ) -> None:
        """``samples``: whether the completions of a generation are wanted too."""
        self._trainer = trainer
        self._phases = phases
        self._scalars = scalars
        self._has_lists = metrics.available
        self._metrics = metrics
        self.take_rollouts: Callable[[], list[Rollouts]] | None = None
        """What an asynchronous trainer trained on; None for any other."""
        self._functions = functions
        self._samples = samples
        self._group_size = group_size_of(trainer)
        self._buffers = buffers_of(trainer)
        self._accelerator = getattr(trainer, "accelerator", None)
        self._optimizer: OpenInterval | None = None
        self._learning_rate: float | None = None
        self._skipped = 0
        self._telemetry_ns = 0
        self._step_start_ns = perf_counter_ns()

    @property
    def began_ns(self) -> int:
        """``perf_counter_ns`` at the beginning of the step in progress; from any thread."""
        return self._step_start_ns

    def start(self) -> None:
        """The first step begins here."""
        self._step_start_ns = perf_counter_ns()

    def before_optimizer(self, optimizer: Any) -> None:
        """The optimizer is about to step."""
        if optimizer is not None:
            self._learning_rate = float(optimizer.param_groups[0]["lr"])
        self._optimizer = self._phases.begin("optimizer")

    def after_optimizer(self) -> None:
        """The optimizer has stepped, or skipped."""
        if self._optimizer is not None:
            self._phases.end(self._optimizer)
            self._optimizer = None
        if getattr(self._accelerator, "optimizer_step_was_skipped", False):
            self._skipped += 1

    def end_step(self, step: int, epoch: float | None) -> RawStep:
        """What there is of the step that ends now; the next begins. A source that raises loses its own values and not
        the step."""
        now, functions, metrics = perf_counter_ns(), self._functions, self._metrics
        held = generation = None
        readings: list[Reading] = []
        if self._has_lists:
            try:
                held = metrics.take()
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("sources", error, "reading the trainer's lists")
            try:
                if metrics.generated and self._buffers:
                    weights = getattr(self._trainer, "reward_weights", None)
                    generation = last_generation(self._buffers, weights, self._group_size, self._samples)
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("sources", error, "reading groups")
        try:
            readings = self._scalars.take()
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("sources", error, "reading scalars")
        raw = make_tuple(
            RawStep,
            (
                step,
                epoch,
                self._step_start_ns,
                now,
                time.time_ns(),
                held,
                readings,
                self._learning_rate,
                generation,
                functions.take_nonfinite() if functions.fresh_nonfinite else _NONE,
                self._phases.end_step(),
                self._skipped,
                self._telemetry_ns,
                self.take_rollouts() if self.take_rollouts is not None else _NO_ROLLOUTS,
                functions.take_errors() if functions.fresh_errors else _NONE,
            ),
        )
        self._step_start_ns = now
        done = perf_counter_ns()
        self._telemetry_ns += done - now
        self._phases.add("telemetry", now, done)
        return raw
