"""TRL's log keys: which key is which signal.

Mapping is by meaning. Several spellings of one quantity over TRL's versions lead to one signal; a word that
means different things in different trainers leads to different ones. Keys that are unknown pass through
unmapped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final

EVALUATION_PREFIX: Final = "eval_"

SIGNAL_OF_KEY: Final[dict[str, str]] = {
    "loss": "loss",
    "policy_loss": "policy_loss",
    "aux_loss": "auxiliary_loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "kl": "kl_per_token",
    "entropy": "entropy",
    "entropy_coef": "entropy_coefficient",
    "clip_ratio": "clip_region_ratio",
    "clip_ratio/low_mean": "clip_low_ratio",
    "clip_ratio/low_min": "clip_low_min_ratio",
    "clip_ratio/high_mean": "clip_high_ratio",
    "clip_ratio/high_max": "clip_high_max_ratio",
    "clip_ratio/region_mean": "clip_region_ratio",
    "cispo_clip_ratio": "cispo_clip_ratio",
    "vespo/phi_seq_mean": "vespo_phi_mean",
    "sampling/sampling_logp_difference/mean": "sampling_logp_difference_mean",
    "sampling/sampling_logp_difference/max": "sampling_logp_difference_max",
    "sampling/importance_sampling_ratio/min": "importance_weight_min",
    "sampling/importance_sampling_ratio/mean": "importance_weight_mean",
    "sampling/importance_sampling_ratio/max": "importance_weight_max",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "reward_zero_std_ratio",
    "completion_length": "completion_length",
    "completions/mean_length": "completion_length",
    "completions/min_length": "completion_length_min",
    "completions/max_length": "completion_length_max",
    "completions/mean_terminated_length": "terminated_length",
    "completions/min_terminated_length": "terminated_length_min",
    "completions/max_terminated_length": "terminated_length_max",
    "completions/clipped_ratio": "truncated_ratio",
    "tools/call_frequency": "tool_calls",
    "tools/failure_frequency": "tool_failure_ratio",
    "step_time": "trainer_step_time",
    "epoch": "epoch",
}

TOKENS_KEY: Final = "num_tokens"
"""Cumulative tokens; a counter, not a signal."""

IGNORED_KEYS: Final = frozenset(
    {"total_flos", "train_loss", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
)
"""Summaries that transformers logs once, after the last step."""

PREFERENCE_KEYS: Final = frozenset(
    {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}
)
"""Of preference trainers: implicit rewards, not reward functions."""

_REWARD_FUNCTION: Final = re.compile(r"rewards/(?P<name>.+?)(?:/(?P<what>mean|std))?\Z", re.DOTALL)
_SPEED: Final = re.compile(r"(runtime|samples_per_second|steps_per_second|model_preparation_time)\Z")


class Slot(Enum):
    """Where a key's value belongs."""

    SIGNAL = auto()
    REWARD_FUNCTION_MEAN = auto()
    REWARD_FUNCTION_STD = auto()
    TOKENS = auto()
    EVALUATION = auto()
    UNMAPPED = auto()
    IGNORED = auto()


@dataclass(slots=True)
class MappedLogs:
    """A log dict by meaning."""

    values: dict[str, float] = field(default_factory=dict)
    reward_functions: dict[str, tuple[float, float]] = field(default_factory=dict)
    unmapped: dict[str, float] = field(default_factory=dict)
    tokens: float | None = None
    evaluation: dict[str, float] = field(default_factory=dict)


def map_logs(logs: Mapping[Any, Any]) -> MappedLogs:
    """Sort a log dict's keys by meaning. Values that are no number (None, text, nested) are left out."""
    mapped = MappedLogs()
    values, functions = mapped.values, mapped.reward_functions
    for key, raw in logs.items():
        value = raw if type(raw) is float else as_number(raw)
        if value is None or not isinstance(key, str):
            continue
        slot, name = classify(key)
        if slot is Slot.SIGNAL:
            values[name] = value
        elif slot is Slot.REWARD_FUNCTION_MEAN:
            functions[name] = (value, functions[name][1] if name in functions else math.nan)
        elif slot is Slot.REWARD_FUNCTION_STD:
            functions[name] = (functions[name][0] if name in functions else math.nan, value)
        elif slot is Slot.TOKENS:
            mapped.tokens = value
        elif slot is Slot.EVALUATION:
            mapped.evaluation[name] = value
        elif slot is Slot.UNMAPPED:
            mapped.unmapped[key] = value
    return mapped


@lru_cache(maxsize=4096)
def classify(key: str) -> tuple[Slot, str]:
    """Where a key's value belongs, and under which name."""
    if key in SIGNAL_OF_KEY:
        return Slot.SIGNAL, SIGNAL_OF_KEY[key]
    if key == TOKENS_KEY:
        return Slot.TOKENS, key
    if key in IGNORED_KEYS:
        return Slot.IGNORED, key
    if key.startswith(EVALUATION_PREFIX):
        return _classify_evaluation(key)
    match = None if key in PREFERENCE_KEYS else _REWARD_FUNCTION.match(key)
    if match is None:
        return Slot.UNMAPPED, key
    slot = Slot.REWARD_FUNCTION_STD if match["what"] == "std" else Slot.REWARD_FUNCTION_MEAN
    return slot, match["name"]


def _classify_evaluation(key: str) -> tuple[Slot, str]:
    bare = key.removeprefix(EVALUATION_PREFIX)
    if bare in SIGNAL_OF_KEY:
        return Slot.EVALUATION, SIGNAL_OF_KEY[bare]
    if _SPEED.search(bare) or bare == TOKENS_KEY or _REWARD_FUNCTION.match(bare):
        return Slot.IGNORED, key
    return Slot.UNMAPPED, key


def as_number(raw: Any) -> float | None:
    """``raw`` as a float; None for what is no number. A tensor on an accelerator is left alone: reading it
    would wait."""
    if raw is None or isinstance(raw, bool | str | bytes):
        return None
    if getattr(getattr(raw, "device", None), "type", "cpu") != "cpu":
        return None
    try:
        # item(): numpy deprecates float() of an array, even of one number.
        return float(raw.item() if hasattr(raw, "item") else raw)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
