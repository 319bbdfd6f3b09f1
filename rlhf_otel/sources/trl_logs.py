"""TRL's log dicts, sorted by meaning. Which key is which signal is in ``trl_keys``.

Keys that are unknown pass through unmapped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final

from rlhf_otel.sources.trl_keys import Family, family_of
from rlhf_otel.sources.trl_keys.common import IGNORED_KEYS, TOKENS_KEY

EVALUATION_PREFIX: Final = "eval_"

_REWARD_FUNCTION: Final = re.compile(
    r"(?:self_distillation/)?rewards/(?P<name>.+?)(?:/(?P<what>mean|std))?\Z", re.DOTALL
)
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


def map_logs(logs: Mapping[Any, Any], algorithm: str = "") -> MappedLogs:
    """Sort the keys of a log dict of ``algorithm`` (``RunIdentity.algorithm``) by meaning. Values that are no
    number (None, text, nested) are left out."""
    mapped = MappedLogs()
    values, functions = mapped.values, mapped.reward_functions
    for key, raw in logs.items():
        value = raw if type(raw) is float else as_number(raw)
        if value is None or not isinstance(key, str):
            continue
        slot, name = classify(key, algorithm)
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
def classify(key: str, algorithm: str = "") -> tuple[Slot, str]:
    """Where a key's value belongs, and under which name."""
    family = family_of(algorithm)
    if key in family.keys:
        return Slot.SIGNAL, family.keys[key]
    if key == TOKENS_KEY:
        return Slot.TOKENS, key
    if key in IGNORED_KEYS:
        return Slot.IGNORED, key
    if key.startswith(EVALUATION_PREFIX):
        return _classify_evaluation(key, family)
    match = _REWARD_FUNCTION.match(key) if family.reward_functions else None
    if match is None:
        return Slot.UNMAPPED, key
    slot = Slot.REWARD_FUNCTION_STD if match["what"] == "std" else Slot.REWARD_FUNCTION_MEAN
    return slot, match["name"]


def _classify_evaluation(key: str, family: Family) -> tuple[Slot, str]:
    bare = key.removeprefix(EVALUATION_PREFIX)
    if bare in family.keys:
        return Slot.EVALUATION, family.keys[bare]
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
