"""The guard: before the optimizer steps, it looks at the norm of the gradient; if that is not finite, no step.

Without gradients an optimizer does nothing: no update, no weight decay, no change of its moments. So dropping
an update is taking the gradients away. The norm is that of the reduced gradient, which is the same on all
ranks, and so is the verdict. Reading it waits for the backward pass, which is why the guard is opt-in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rlhf_otel import faults
from rlhf_otel.guard.evidence import Evidence, Gatherer
from rlhf_otel.guard.micro_batches import MicroBatches
from rlhf_otel.guard.suitability import inner_optimizer
from rlhf_otel.records import StepRecord
from rlhf_otel.sources.wrapping import Wrappers

Keep = Callable[[Evidence], str]
"""Takes evidence to be written in the background; returns where that will be, empty if nowhere."""


class UpdateGuard:
    """Guards one trainer."""

    def __init__(self, trainer: Any, gatherer: Gatherer, keep: Keep) -> None:
        self._trainer = trainer
        self._gatherer = gatherer
        self._keep = keep
        self._batches = MicroBatches()
        self._norm: Any = None
        self._wrappers = Wrappers()
        self._notes: dict[int, str] = {}
        self.dropped = 0
        """Updates dropped so far."""

    def attach(self) -> None:
        """Begin to guard."""
        hook = inner_optimizer(self._trainer).register_step_pre_hook(self._before_step)
        self._wrappers.add(hook.remove)
        self._wrappers.wrap(self._trainer, "_get_grad_norm", self._noting_norm)
        self._wrappers.wrap(self._trainer, "compute_loss", self._batches.compute_loss)
        self._wrappers.wrap(
            self._trainer, "_get_per_token_logps_and_entropies", self._batches.log_probabilities
        )

    def detach(self) -> None:
        """Put everything back as it was. Harmless when called again."""
        self._wrappers.restore()

    def annotate(self, record: StepRecord) -> None:
        """Background thread: say in the record of a step that its update was dropped."""
        note = self._notes.pop(record.step, None)
        if note is None:
            return
        record.update_lost = True
        if "grad_norm" not in record.nonfinite:
            record.values["grad_norm"], record.nonfinite["grad_norm"] = math.nan, 1
        for signal in record.nonfinite:
            before = record.details.get(signal)
            record.details[signal] = f"{before}. {note}" if before else note

    # --- on the training thread

    def _noting_norm(self, original: Any) -> Any:
        def get_grad_norm(*args: Any, **kwargs: Any) -> Any:
            self._norm = original(*args, **kwargs)
            return self._norm

        return get_grad_norm

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        norm, batches = self._norm, self._batches.take()
        self._norm = None
        try:
            value = float(norm) if norm is not None else _norm_of(optimizer)
        except Exception as error:  # noqa: BLE001 - faults logs it; without a norm there is no verdict
            faults.handle("actions", error, "reading the norm of the gradient")
            return
        if math.isfinite(value):
            return
        _drop(optimizer)
        self.dropped += 1
        with faults.isolated("actions", "gathering evidence of a bad update"):
            self._note(value, batches)

    def _note(self, norm: float, batches: list[Any]) -> None:
        step = int(self._trainer.state.global_step) + 1
        note = self._notes.setdefault(step, "The update was dropped: the weights are as before it")
        evidence = self._gatherer.gather(self._trainer, step, norm, batches)
        place = self._keep(evidence) if evidence is not None else ""
        if place:
            self._notes[step] = f"{note}; evidence in {place}"


def _drop(optimizer: Any) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def _norm_of(optimizer: Any) -> float:
    """For a trainer that measures none: one pass over the gradients."""
    import torch

    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
