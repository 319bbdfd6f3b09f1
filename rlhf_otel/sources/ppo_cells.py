"""PPO's statistics, corrected for the cells that TRL leaves at 0.

``PPOTrainer`` collects what each update measures in an array of ``(num_ppo_epochs, num_mini_batches,
gradient_accumulation_steps)`` and logs its mean, but a mini-batch has only ``gradient_accumulation_steps /
num_mini_batches`` micro-batches: of the last axis the rest stays 0. With 2 mini-batches a healthy ``val/ratio``
reads 0.5, and entropy, losses and clip fractions are scaled alike. (TRL 1.12, ``ppo_trainer.py``, ``stats_shape``.)
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

DILUTED: Final = (
    "approx_kl",
    "clip_region_ratio",
    "policy_loss",
    "value_loss",
    "value_clip_ratio",
    "entropy",
    "policy_ratio",
)
"""Signals that are means over all cells."""
MEANINGFUL_POLICY_LOSS: Final = 1e-3
"""Size of the policy loss below which a quotient by it says nothing. Advantages are whitened to unit variance, so
that the loss is of order 0.01 to 0.1; below 0.001 it is the rounding of a mean. Heuristic."""


class PPOCells(NamedTuple):
    """How many cells there are, and what is needed to compare the parts of the loss."""

    cells: int
    """Of all ranks."""
    filled: int
    kl_coefficient: float
    value_coefficient: float
    completions: int
    """Of this rank in a step; 0 where nothing asks for an end-of-sequence token."""

    def correct(self, values: dict[str, float]) -> None:
        """Undo the dilution, take out a variance of a single cell, and add the quotients."""
        share = self.filled / self.cells
        ratio = values.get("policy_ratio")
        for name in DILUTED:
            if name in values:
                values[name] /= share
        variance = values.pop("policy_ratio_variance", None)
        if variance is not None and ratio is not None and self.filled > 1:
            values["policy_ratio_variance"] = self._variance(variance, ratio)
        if self.completions and "eos_tokens" in values:
            values["eos_per_completion"] = values["eos_tokens"] / self.completions
        self._add_quotients(values)

    def _variance(self, variance: float, mean: float) -> float:
        """Unbiased variance over the filled cells, from the one over all, whose others are 0."""
        squares = (self.cells - 1) * variance + self.cells * mean * mean
        true_mean = mean * self.cells / self.filled
        return max(0.0, squares - self.filled * true_mean * true_mean) / (self.filled - 1)

    def _add_quotients(self, values: dict[str, float]) -> None:
        size = abs(values.get("policy_loss", math.nan))
        if not size >= MEANINGFUL_POLICY_LOSS:
            return
        if "kl_per_sequence" in values:
            values["kl_policy_loss_ratio"] = self.kl_coefficient * values["kl_per_sequence"] / size
        if "value_loss" in values:
            values["value_policy_loss_ratio"] = self.value_coefficient * values["value_loss"] / size


def of(trainer: Any, algorithm: str) -> PPOCells | None:
    """The cells of a PPO trainer; None for any other."""
    args: Any = getattr(trainer, "args", None)
    if algorithm != "ppo" or not hasattr(args, "num_ppo_epochs"):
        return None
    epochs, batches = int(args.num_ppo_epochs), int(args.num_mini_batches)
    accumulation = int(args.gradient_accumulation_steps)
    ranks = int(getattr(args, "world_size", None) or 1)
    filled = math.ceil(accumulation / batches)
    wants_end = getattr(trainer, "stop_token_id", None) is not None or args.missing_eos_penalty is not None
    return PPOCells(
        cells=ranks * epochs * batches * accumulation,
        filled=ranks * epochs * batches * filled,
        kl_coefficient=float(args.kl_coef),
        value_coefficient=float(args.vf_coef),
        completions=int(getattr(args, "local_batch_size", None) or 0) if wants_end else 0,
    )
