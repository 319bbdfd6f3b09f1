"""Where the first value that is not finite arises: in the inputs, the weights, a module's output, the loss, or on
the way back.

Hooks see every module's output as it is computed, and every gradient as it flows back into one. Of an operation
that turns finite gradients into NaN, torch's anomaly mode knows the name and the line.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

MAX_FINDINGS: Final = 50
_LINE: Final = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)')
_MACHINERY: Final = re.compile(r"[/\\](torch|rlhf_otel|accelerate|click)[/\\]|<frozen|<string>")


class Finding(NamedTuple):
    """A tensor with values that are not finite."""

    stage: str
    """"input", "weight", "forward", "loss", "backward", "gradient" or "norm": in the order of a step."""
    name: str
    nan: int
    infinite: int
    total: int
    detail: str = ""


class Probe:
    """Watches one forward and backward pass of ``model``."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.findings: list[Finding] = []
        """In the order in which they arose."""

    def run(self, inputs: Mapping[str, Any], compute_loss: Callable[[], Any]) -> float:
        """Look at everything while the loss is computed and differentiated; returns the loss."""
        import torch

        for name, value in inputs.items():
            self._look("input", name, value)
        for name, weights in self._model.named_parameters():
            self._look("weight", name, weights)
        handles = [
            module.register_forward_hook(partial(self._after_module, name or type(module).__name__))
            for name, module in self._model.named_modules()
        ]
        try:
            with warnings.catch_warnings(record=True) as said, torch.autograd.set_detect_anomaly(True):
                warnings.simplefilter("always")
                loss = compute_loss()
                self._look("loss", "loss", loss)
                self._backward(loss, said)
        finally:
            for handle in handles:
                handle.remove()
        return float(loss.detach())

    def look_at_gradients(self) -> float:
        """Look at what the passes so far left in the parameters; returns the norm."""
        import torch

        gradients = {name: p.grad for name, p in self._model.named_parameters() if p.grad is not None}
        for name, gradient in gradients.items():
            self._look("gradient", name, gradient)
        norm = torch.nn.utils.get_total_norm(list(gradients.values())) if gradients else torch.tensor(0.0)
        self._look("norm", "norm of all gradients", norm)
        return float(norm)

    # --- parts

    def _backward(self, loss: Any, said: list[warnings.WarningMessage]) -> None:
        try:
            loss.backward()
        except RuntimeError as error:
            if "returned nan values" not in str(error):
                raise
            operation = re.search(r"Function '(\w+?)(?:Backward\d*)?'", str(error))
            name = operation[1] if operation else str(error)
            self._add(Finding("backward", f"operation {name}", 1, 0, 1, _forward_line(said)))

    def _after_module(self, name: str, module: Any, arguments: Any, output: Any) -> None:
        for part, tensor in _tensors(output, name):
            self._look("forward", part, tensor, type(module).__name__)
            if tensor.requires_grad:
                tensor.register_hook(partial(self._gradient_into, part, type(module).__name__))

    def _gradient_into(self, name: str, kind: str, gradient: Any) -> None:
        self._look("backward", f"gradient into the output of {name}", gradient, kind)

    def _look(self, stage: str, name: str, value: Any, detail: str = "") -> None:
        import torch

        if isinstance(value, float):
            value = torch.tensor(value)
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return
        value = value.detach()
        nan, infinite = int(value.isnan().sum()), int(value.isinf().sum())
        if nan or infinite:
            self._add(Finding(stage, name, nan, infinite, value.numel(), detail))

    def _add(self, finding: Finding) -> None:
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(finding)


def _tensors(output: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Floating tensors in what a module returned, each with its name there."""
    import torch

    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, f"{name}, {key}")
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value, name)


def _forward_line(said: list[warnings.WarningMessage]) -> str:
    """The innermost line outside torch that computed what backward failed on, from anomaly mode's warning."""
    text = "\n".join(str(warning.message) for warning in said)
    lines = [match for match in _LINE.finditer(text) if not _MACHINERY.search(match["file"])]
    return f"{lines[-1]['file']}:{lines[-1]['line']} in {lines[-1]['function']}" if lines else ""
