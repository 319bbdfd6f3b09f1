"""Scalars of a step, without waiting for a device."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlhf_otel.sources.scalars import ScalarReader


def taken(reader: ScalarReader) -> list[tuple[str, float, int]]:
    return [(name, float(value), lag) for name, value, lag in reader.take()]


def test_scalars_of_a_step_in_their_order() -> None:
    reader = ScalarReader()
    reader.add("loss", torch.tensor(1.0))
    reader.add("loss", 2.0)
    reader.add("grad_norm", torch.tensor([3.0]))
    assert taken(reader) == [("loss", 1.0, 0), ("loss", 2.0, 0), ("grad_norm", 3.0, 0)]
    assert reader.take() == []


def test_nan_is_kept() -> None:
    reader = ScalarReader()
    reader.add("loss", torch.tensor(math.nan))
    assert math.isnan(taken(reader)[0][1])


def test_the_graph_behind_a_scalar_is_not() -> None:
    weight = torch.ones(3, requires_grad=True)
    reader = ScalarReader()
    reader.add("loss", (weight * 2).sum())
    ((_, value, _),) = reader.take()
    assert float(value) == 6.0
    assert getattr(value, "grad_fn", None) is None


def test_a_tensor_elsewhere_is_left_alone() -> None:
    reader = ScalarReader()
    reader.add("loss", torch.empty((), device="meta"))
    assert reader.take() == []


class Copy:
    """The event of a copy from a device: done when it is told so."""

    def __init__(self) -> None:
        self.done = False

    def query(self) -> bool:
        return self.done


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[Copy]:
    """Copies that the reader began, in place of CUDA's."""
    copies: list[Copy] = []

    def copy(self: ScalarReader, name: str, value: Any) -> None:
        from rlhf_otel.sources import scalars

        copies.append(Copy())
        self._pending.append(scalars._Pending(name, self._step, value.number, copies[-1]))

    monkeypatch.setattr(ScalarReader, "_copy", copy)
    return copies


class OnDevice:
    """A tensor on a CUDA device."""

    device = torch.device("cuda", 0)

    def __init__(self, number: float) -> None:
        self.number = number


def test_a_device_is_not_waited_for(device: list[Copy]) -> None:
    reader = ScalarReader()
    reader.add("loss", OnDevice(1.0))
    assert reader.take() == []
    device[0].done = True
    reader.add("loss", OnDevice(2.0))
    assert reader.take() == [("loss", 1.0, 1)]
    device[1].done = True
    assert reader.take() == [("loss", 2.0, 1)]
    assert reader.take() == []


def test_the_micro_batches_of_a_step_are_read_together(device: list[Copy]) -> None:
    reader = ScalarReader()
    reader.add("loss", OnDevice(1.0))
    reader.add("loss", OnDevice(2.0))
    device[0].done = True
    assert reader.take() == []
    device[1].done = True
    assert reader.take() == [("loss", 1.0, 1), ("loss", 2.0, 1)]


def test_what_is_there_at_once_has_no_lag(device: list[Copy]) -> None:
    reader = ScalarReader()
    reader.add("loss", OnDevice(1.0))
    device[0].done = True
    assert reader.take() == [("loss", 1.0, 0)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_device_is_read_a_step_later_at_most() -> None:
    reader = ScalarReader()
    found = []
    for step in range(4):
        if step < 3:
            reader.add("loss", torch.full((), float(step), device="cuda"))
        found += reader.take()
        torch.cuda.synchronize()
    assert [value for _, value, _ in found] == [0.0, 1.0, 2.0]
    assert all(lag <= 1 for _, _, lag in found)
