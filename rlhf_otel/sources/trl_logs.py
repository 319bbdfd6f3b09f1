"""TRL's log dicts, sorted by meaning. Which key is which signal is in ``trl_keys``.

Keys that are unknown pass through unmapped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import Any, Final, NamedTuple

from rlhf_otel.sources.trl_keys import Family, family_of
from rlhf_otel.sources.trl_keys.common import IGNORED_KEYS, TOKENS_KEY

EVALUATION_PREFIX: Final = "eval_"

_REWARD_FUNCTION: Final = re.compile(
    r"(?:self_distillation/)?rewards/(?P<name>.+?)(?:/(?P<what>mean|std))?\Z", re.DOTALL
)
_NO_NUMBERS: Final = (bool, str, bytes)
_UNKNOWN: Final = (math.nan, math.nan)
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


class Places(NamedTuple):
    """Where the values of log dicts with the same keys belong: found once, since a run has few kinds of them."""

    signals: tuple[tuple[Any, str], ...]
    """Keys of the dict, and under which name their values go here."""
    functions: tuple[tuple[Any, str, Slot], ...]
    evaluation: tuple[tuple[Any, str], ...]
    unmapped: tuple[tuple[Any, str], ...]
    tokens: tuple[Any, ...]

    @classmethod
    def of(cls, keys: Iterable[tuple[Any, str]], algorithm: str) -> Places:
        """Of pairs of a dict's key and how TRL spells it, in a log of ``algorithm``."""
        by_slot: dict[Slot, list[tuple[Any, str]]] = {slot: [] for slot in Slot}
        functions = []
        for key, spelled in keys:
            slot, name = classify(spelled, algorithm)
            if slot in (Slot.REWARD_FUNCTION_MEAN, Slot.REWARD_FUNCTION_STD):
                functions.append((key, name, slot))
            else:
                by_slot[slot].append((key, name))
        return cls(
            tuple(by_slot[Slot.SIGNAL]),
            tuple(functions),
            tuple(by_slot[Slot.EVALUATION]),
            tuple(by_slot[Slot.UNMAPPED]),
            tuple(key for key, _ in by_slot[Slot.TOKENS]),
        )

    def sort(self, logs: Mapping[Any, Any]) -> MappedLogs:
        """The values by meaning; those that are no number are left out."""
        mapped = MappedLogs(_numbers(logs, self.signals))
        functions = mapped.reward_functions
        for key, name, slot in self.functions:
            value = as_number(logs[key])
            if value is not None:
                mean, deviation = functions.get(name, _UNKNOWN)
                of_mean = slot is Slot.REWARD_FUNCTION_MEAN
                functions[name] = (value, deviation) if of_mean else (mean, value)
        if self.unmapped:
            mapped.unmapped = _numbers(logs, self.unmapped)
        if self.evaluation:
            mapped.evaluation = _numbers(logs, self.evaluation)
        if self.tokens:
            mapped.tokens = as_number(logs[self.tokens[-1]])
        return mapped


def _numbers(logs: Mapping[Any, Any], places: Iterable[tuple[Any, str]]) -> dict[str, float]:
    found = {}
    for key, name in places:
        raw = logs[key]
        value = raw if type(raw) is float else as_number(raw)
        if value is not None:
            found[name] = value
    return found


def map_logs(logs: Mapping[Any, Any], algorithm: str = "") -> MappedLogs:
    """Sort the keys of a log dict of ``algorithm`` (``RunIdentity.algorithm``) by meaning. Values that are no
    number (None, text, nested) are left out."""
    return _places_of(tuple(logs), algorithm).sort(logs)


@lru_cache(maxsize=256)
def _places_of(keys: tuple[Any, ...], algorithm: str) -> Places:
    return Places.of(((key, key) for key in keys if isinstance(key, str)), algorithm)


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
    if type(raw) is float:
        return raw
    if raw is None or isinstance(raw, _NO_NUMBERS):
        return None
    if getattr(getattr(raw, "device", None), "type", "cpu") != "cpu":
        return None
    try:
        # item(): numpy deprecates float() of an array, even of one number.
        return float(raw.item() if hasattr(raw, "item") else raw)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None
