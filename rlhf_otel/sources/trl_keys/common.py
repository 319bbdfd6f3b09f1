"""Keys that every trainer of transformers logs, and keys that mean the same in all of TRL's."""

from __future__ import annotations

from typing import Final

COMMON: Final[dict[str, str]] = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "aux_loss": "auxiliary_loss",
    "step_time": "trainer_step_time",
}

COMPLETIONS: Final[dict[str, str]] = {
    "completion_length": "completion_length",
    "completions/mean_length": "completion_length",
    "completions/min_length": "completion_length_min",
    "completions/max_length": "completion_length_max",
    "completions/mean_terminated_length": "terminated_length",
    "completions/min_terminated_length": "terminated_length_min",
    "completions/max_terminated_length": "terminated_length_max",
    "completions/clipped_ratio": "truncated_ratio",
    "completions/truncated_fraction": "truncated_ratio",
    "tools/call_frequency": "tool_calls",
    "tools/failure_frequency": "tool_failure_ratio",
}
"""Of trainers that generate."""

TOKENS_KEY: Final = "num_tokens"
"""Cumulative tokens; a counter, not a signal."""

IGNORED_KEYS: Final = frozenset(
    {"total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
)
"""Summaries that transformers logs once, after the last step."""
