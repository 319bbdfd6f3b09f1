"""Where the guard cannot see whole gradients before the optimizer does, it says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from rlhf_otel.errors import GuardError
from rlhf_otel.guard.suitability import require, why_not


def trainer(**changes: Any) -> Any:
    """What the guard looks at of a trainer that is ready to train."""
    model = torch.nn.Linear(2, 2)
    accelerator = SimpleNamespace(
        distributed_type=changes.pop("distributed", DistributedType.NO), scaler=changes.pop("scaler", None)
    )
    whole = {
        "accelerator": accelerator,
        "args": SimpleNamespace(optim="adamw_torch_fused"),
        "optimizer": SimpleNamespace(optimizer=torch.optim.AdamW(model.parameters())),
        "model": model,
        **changes,
    }
    return SimpleNamespace(**whole)


@pytest.mark.parametrize(
    "distributed", [DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU]
)
def test_whole_gradients_are_fine(distributed: DistributedType) -> None:
    assert why_not(trainer(distributed=distributed)) == ""


@pytest.mark.parametrize("kind", [k for k in DistributedType if k != "NO" and not k.startswith("MULTI_")])
def test_every_other_way_of_distributing_is_refused(kind: DistributedType) -> None:
    assert why_not(trainer(distributed=kind))


class Sharded(torch.nn.Module):
    """As a model whose parameters are DTensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.weight.device_mesh = object()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (None, "not found"),
        (SimpleNamespace(), "no accelerator"),
        (trainer(distributed=DistributedType.DEEPSPEED), "steps inside `backward`"),
        (trainer(distributed=DistributedType.FSDP), "shards the gradients"),
        (trainer(scaler=object()), "fp16"),
        (trainer(args=SimpleNamespace(optim="lomo")), "inside the backward pass"),
        (trainer(args=SimpleNamespace(optim="galore_adamw_layerwise")), "inside the backward pass"),
        (trainer(optimizer=None), "no optimizer"),
        (trainer(optimizer=SimpleNamespace()), "no torch optimizer"),
        (trainer(model=Sharded()), "sharded"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(there: Any, said: str) -> None:
    with pytest.raises(GuardError, match=said) as refused:
        require(there)
    assert "guard='off'" in str(refused.value)
