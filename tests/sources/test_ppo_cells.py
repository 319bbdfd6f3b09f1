"""PPO's diluted statistics: what TRL's arithmetic makes of true ones is undone exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.sources import ppo_cells
from rlhf_otel.sources.ppo_cells import DILUTED, MEANINGFUL_POLICY_LOSS, PPOCells

sizes = st.integers(1, 4)


def arguments(**more: Any) -> SimpleNamespace:
    found = {
        "num_ppo_epochs": 2, "num_mini_batches": 2, "gradient_accumulation_steps": 4, "world_size": 1, "kl_coef": 0.05,
        "vf_coef": 0.1, "missing_eos_penalty": None, "local_batch_size": 16,
    }  # fmt: skip
    return SimpleNamespace(**{**found, **more})


def cells(args: Any, **trainer: Any) -> PPOCells:
    found = ppo_cells.of(SimpleNamespace(args=args, **trainer), "ppo")
    assert found is not None
    return found


def as_trl_logs(numbers: torch.Tensor, args: Any) -> tuple[float, float]:
    """Mean and variance over all cells, of which a mini-batch fills only some (``stats_shape`` of TRL 1.12)."""
    shape = (args.num_ppo_epochs, args.num_mini_batches, args.gradient_accumulation_steps)
    collected = torch.zeros(shape, dtype=torch.float64)
    filled = math.ceil(args.gradient_accumulation_steps / args.num_mini_batches)
    collected[:, :, :filled] = numbers[: args.num_ppo_epochs, : args.num_mini_batches, :filled]
    return collected.mean().item(), collected.var().item() if collected.numel() > 1 else math.nan


@given(sizes, sizes, sizes, st.integers(0, 1000))
def test_means_and_variance_are_those_of_the_filled_cells(
    epochs: int, batches: int, accumulation: int, seed: int
) -> None:
    args = arguments(
        num_ppo_epochs=epochs, num_mini_batches=batches, gradient_accumulation_steps=accumulation
    )
    numbers = 1 + 0.1 * torch.randn(
        4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    mean, variance = as_trl_logs(numbers, args)
    filled = numbers[:epochs, :batches, : math.ceil(accumulation / batches)]

    values = {**dict.fromkeys(DILUTED, mean), "policy_ratio_variance": variance}
    cells(args).correct(values)

    for name in DILUTED:
        assert values[name] == pytest.approx(filled.mean().item())
    if filled.numel() == 1:
        assert "policy_ratio_variance" not in values, "the variance of one is no failure"
    else:
        assert values["policy_ratio_variance"] == pytest.approx(filled.var().item(), abs=1e-9)


def test_two_mini_batches_halve_what_is_logged() -> None:
    values = {"policy_ratio": 0.5, "entropy": 1.0, "kl_per_sequence": 3.0}
    cells(arguments(num_mini_batches=2)).correct(values)
    assert values == {"policy_ratio": 1.0, "entropy": 2.0, "kl_per_sequence": 3.0}


def test_a_single_mini_batch_is_not_diluted() -> None:
    values = {"policy_ratio": 1.0}
    cells(arguments(num_mini_batches=1)).correct(values)
    assert values == {"policy_ratio": 1.0}


def test_ranks_have_cells_of_their_own() -> None:
    one, four = cells(arguments()), cells(arguments(world_size=4))
    assert (four.cells, four.filled) == (4 * one.cells, 4 * one.filled)


def test_nan_stays_nan() -> None:
    values = {"entropy": math.nan, "policy_ratio": math.nan, "policy_ratio_variance": math.nan}
    cells(arguments()).correct(values)
    assert math.isnan(values["entropy"])


def test_the_parts_of_the_loss_are_compared() -> None:
    values = {"policy_loss": -0.01, "value_loss": 0.2, "kl_per_sequence": 4.0}
    cells(arguments(num_mini_batches=1)).correct(values)
    assert values["kl_policy_loss_ratio"] == pytest.approx(0.05 * 4.0 / 0.01)
    assert values["value_policy_loss_ratio"] == pytest.approx(0.1 * 0.2 / 0.01)


@pytest.mark.parametrize("loss", [0.0, 0.9 * MEANINGFUL_POLICY_LOSS, math.nan, None])
def test_nothing_is_compared_with_a_loss_that_says_nothing(loss: float | None) -> None:
    values = {"value_loss": 0.2, "kl_per_sequence": 4.0}
    if loss is not None:
        values["policy_loss"] = loss
    cells(arguments(num_mini_batches=1)).correct(values)
    assert not {"kl_policy_loss_ratio", "value_policy_loss_ratio"} & values.keys()


@pytest.mark.parametrize(
    ("args", "trainer", "expected"),
    [
        ({}, {}, None),
        ({"missing_eos_penalty": 1.0}, {}, 0.5),
        ({}, {"stop_token_id": 2}, 0.5),
        ({"missing_eos_penalty": 1.0, "local_batch_size": None}, {}, None),
    ],
)
def test_end_tokens_per_completion_where_something_asks_for_them(
    args: dict[str, Any], trainer: dict[str, Any], expected: float | None
) -> None:
    values = {"eos_tokens": 8.0}
    cells(arguments(**args), **trainer).correct(values)
    assert values.get("eos_per_completion") == expected


@pytest.mark.parametrize("algorithm", ["", "grpo", "trainer"])
def test_only_ppo_has_cells(algorithm: str) -> None:
    assert ppo_cells.of(SimpleNamespace(args=arguments()), algorithm) is None
    assert ppo_cells.of(None, "ppo") is None
    assert ppo_cells.of(SimpleNamespace(args=SimpleNamespace()), "ppo") is None
