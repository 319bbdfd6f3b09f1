"""Which phases wait for other ranks, by how a trainer was set up; a slow rank is sought in the others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from datasets import Dataset
from tiny import build_trainer

from rlhf_otel.catalogue.spans import PHASE_BY_NAME
from rlhf_otel.settings import Settings
from rlhf_otel.sources.phase_scopes import OF_THE_MODEL, SHARDED, collective_phases
from rlhf_otel.sources.run_identity import identify


def trainer(kind: DistributedType = DistributedType.MULTI_GPU, **attributes: Any) -> Any:
    dispatch = attributes.pop("dispatch_batches", None)
    arguments = SimpleNamespace(**attributes.pop("args", {}))
    accelerator = SimpleNamespace(distributed_type=kind, dispatch_batches=dispatch)
    return SimpleNamespace(accelerator=accelerator, args=arguments, **attributes)


@pytest.mark.parametrize("kind", list(DistributedType))
def test_a_sharded_model_is_gathered_in_every_phase_that_computes_with_it(kind: DistributedType) -> None:
    sharded = kind.value in ("FSDP", "DEEPSPEED", "MEGATRON_LM")

    assert set(collective_phases(trainer(kind))) == (OF_THE_MODEL if sharded else set())


def test_every_name_is_one_of_accelerate_or_of_the_catalogue() -> None:
    assert {kind.value for kind in DistributedType} >= SHARDED
    assert PHASE_BY_NAME.keys() >= OF_THE_MODEL
    assert {PHASE_BY_NAME[name].scope for name in OF_THE_MODEL} == {"local"}, "else they need not be named"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"use_vllm": True, "vllm_mode": "server"}, ("generate",)),
        ({"args": {"use_vllm": True, "vllm_mode": "server"}}, ("generate",)),
        ({"use_vllm": True, "vllm_mode": "colocate"}, ()),
        (
            {"use_vllm": True, "vllm_mode": "colocate", "args": {"vllm_tensor_parallel_size": 2}},
            ("generate",),
        ),
        ({"use_vllm": False, "vllm_mode": "server"}, ()),
        ({"args": {"use_vllm": False, "vllm_mode": "server"}}, ()),
    ],
    ids=str,
)
def test_a_vllm_server_is_asked_by_one_rank_for_all(
    attributes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert collective_phases(trainer(**attributes)) == expected


@pytest.mark.parametrize(
    ("asked", "data", "expected"),
    [
        (None, Dataset.from_dict({"a": [1]}), ()),
        (None, Dataset.from_dict({"a": [1]}).to_iterable_dataset(), ("data",)),
        (False, Dataset.from_dict({"a": [1]}).to_iterable_dataset(), ()),
        (True, Dataset.from_dict({"a": [1]}), ("data",)),
        (None, None, ()),
    ],
    ids=["mapped", "iterable", "iterable, not dispatched", "dispatched", "none"],
)
def test_batches_that_rank_0_reads_for_all(asked: bool | None, data: Any, expected: tuple[str, ...]) -> None:
    assert collective_phases(trainer(dispatch_batches=asked, train_dataset=data)) == expected


@pytest.mark.parametrize("unknown", [None, object()])
def test_of_a_trainer_that_says_nothing_the_catalogue_holds(unknown: Any) -> None:
    assert collective_phases(unknown) == ()


def test_a_real_trainer_s_run_is_told(tmp_path: Path) -> None:
    found = build_trainer(tmp_path, [])
    assert identify(Settings(), found).collective_phases == ()
    found.use_vllm, found.vllm_mode = True, "server"
    assert identify(Settings(), found).collective_phases == ("generate",)
