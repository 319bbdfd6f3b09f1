"""The micro-batches that gradients are being accumulated from: references alone, until the optimizer steps."""

from __future__ import annotations

from typing import Any, NamedTuple

from rlhf_otel import faults


class MicroBatch(NamedTuple):
    """What a loss was computed from."""

    inputs: dict[str, Any]
    random_states: dict[str, Any]
    """State of torch's generators before the forward pass, by device: what dropout drew from."""
    loss: Any
    log_probabilities: Any
    """Of the policy, per completion token; None in a trainer that computes them elsewhere."""


class MicroBatches:
    """Notes each call of a trainer's ``compute_loss`` in training."""

    def __init__(self) -> None:
        self._noted: list[MicroBatch] = []
        self._log_probabilities: Any = None
        self._inside = False

    def take(self) -> list[MicroBatch]:
        """Those since the last call."""
        noted, self._noted = self._noted, []
        return noted

    def compute_loss(self, original: Any) -> Any:
        """``original``, observed."""

        def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            if not model.training:
                return original(model, inputs, *args, **kwargs)
            states, kept = _random_states(), dict(inputs)  # some trainers take keys out of their inputs
            self._log_probabilities, self._inside = None, True
            try:
                result = original(model, inputs, *args, **kwargs)
            finally:
                self._inside = False
            with faults.isolated("actions", "noting a micro-batch"):
                loss = result[0] if isinstance(result, tuple) else result
                self._noted.append(MicroBatch(kept, states, loss.detach(), self._log_probabilities))
            return result

        return compute_loss

    def log_probabilities(self, original: Any) -> Any:
        """The method that computes them, observed: called within ``compute_loss`` it serves the loss."""

        def log_probabilities(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if self._inside:
                with faults.isolated("actions", "noting log-probabilities"):
                    self._log_probabilities = result[0].detach()
            return result

        return log_probabilities


def _random_states() -> dict[str, Any]:
    import torch

    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
