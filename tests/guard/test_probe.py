"""The probe names where the first value that is not finite arises, and nothing where all are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlhf_otel.guard.probe import Probe


class Scale(nn.Module):
    """Multiplies."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


class Root(nn.Module):
    """A root of what is 0 at places: finite forwards, 0 times infinity backwards."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 1e9, torch.sqrt(torch.relu(x) * 0), x)


def network(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), *layers, nn.Linear(3, 1))


def first(model: nn.Module, value: float = 1.0, loss: Callable[[Tensor], Tensor] = torch.sum) -> Any:
    probe, inputs = Probe(model), {"x": torch.full((2, 3), value), "ids": torch.tensor([1])}
    probe.run(inputs, lambda: loss(model(inputs["x"])))
    probe.look_at_gradients()
    return probe.findings[0] if probe.findings else None


def test_all_is_well() -> None:
    assert first(network()) is None


@pytest.mark.parametrize(("value", "nan", "infinite"), [(float("nan"), 6, 0), (float("-inf"), 0, 6)])
def test_in_the_inputs(value: float, nan: int, infinite: int) -> None:
    found = first(network(), value)
    assert found == ("input", "x", nan, infinite, 6, "")


def test_in_the_weights() -> None:
    model = network()
    model[1].weight.data[0, 0] = torch.nan
    assert first(model)[:3] == ("weight", "1.weight", 1)


def test_in_the_forward_pass() -> None:
    found = first(network(Scale(1.0), Scale(float("inf"))))
    assert (found.stage, found.name, found.detail) == ("forward", "2", "Scale")


def test_in_the_loss() -> None:
    assert first(network(), loss=lambda y: y.sum() / 0).stage == "loss"


def test_in_the_backward_pass_with_the_operation_and_its_line() -> None:
    model = network(Root())
    probe, inputs = Probe(model), {"x": torch.ones(2, 3)}
    probe.run(inputs, lambda: model(inputs["x"]).sum())
    found = probe.findings[0]
    assert found.stage == "backward"
    assert any("Sqrt" in each.name or "Mul" in each.name for each in probe.findings)
    assert any("test_probe.py" in each.detail and "forward" in each.detail for each in probe.findings)


def test_in_the_gradients_alone() -> None:
    model = network()
    model[0].weight.register_hook(lambda gradient: gradient * torch.nan)
    assert first(model)[:2] == ("gradient", "0.weight")


def test_finite_gradients_can_have_an_infinite_norm() -> None:
    model = network()
    found = first(model, loss=lambda y: y.sum() * 1e30)
    assert found.stage == "norm"


def test_an_error_of_the_models_own_is_passed_on_and_no_hook_stays() -> None:
    model = network()

    def broken() -> Tensor:
        raise ValueError("theirs")

    with pytest.raises(ValueError, match="theirs"):
        Probe(model).run({}, broken)
    assert not any(module._forward_hooks for module in model.modules())
    assert not torch.is_anomaly_enabled()
