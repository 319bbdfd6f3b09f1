"""What is told once where a trainer is not what this package was tested with: versions, and keys that are missing.

Nothing stops for it: what is known is observed.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from rlhf_otel.records import StepRecord
from rlhf_otel.sources.trl_keys import family_of
from rlhf_otel.sources.trl_keys.trainers import NOW

logger = logging.getLogger("rlhf_otel")

OLDEST: Final[dict[str, tuple[int, int]]] = {"trl": (0, 29), "transformers": (4, 57)}
"""The oldest versions that are tested."""
CORE: Final[dict[str, tuple[str, ...]]] = {
    "grpo": ("reward",),
    "rloo": ("reward",),
    "ppo": ("score", "kl_per_sequence"),
    "dpo": ("preference_margin",),
    "reward": ("preference_accuracy",),
}
"""Algorithm to signals that its first step has, whatever its arguments."""


def too_old(versions: dict[str, str]) -> str:
    """A sentence about packages that are older than supported; empty where none is."""
    old = [
        f"{name} {version} (supported from {'.'.join(map(str, OLDEST[name]))})"
        for name, version in versions.items()
        if name in OLDEST and (numbers := _numbers(version)) and numbers < OLDEST[name]
    ]
    if not old:
        return ""
    return (
        f"{' and '.join(old)}: not tested with rlhf_otel. What is recognised is observed; update for the rest"
    )


def newer(version: str) -> str:
    """A sentence about a TRL that is newer than the newest that is tested; empty where it is not."""
    newest = _numbers(NOW)
    numbers = _numbers(version)
    if numbers is None or newest is None or numbers <= newest:
        return ""
    return (
        f"TRL {version} is newer than {NOW}, with which rlhf_otel is tested; keys that it renamed are told of"
    )


def warn_of_versions() -> None:
    """Say so where what is imported is too old, or newer than what is tested."""
    known = {name: str(getattr(sys.modules.get(name), "__version__", "")) for name in OLDEST}
    sentence = too_old(known)
    if sentence:
        logger.warning(sentence)
    elif sentence := newer(known["trl"]):
        logger.info(sentence)


def unfamiliar(keys: Iterable[str], algorithm: str) -> str:
    """A sentence about keys of a known trainer that no table has; empty where there are none."""
    family = family_of(algorithm)
    found = unknown(keys, algorithm) if algorithm in family.algorithms else []
    if not found:
        return ""
    return (
        f"{algorithm} logged keys that rlhf_otel does not know: {_listed(found)}. They are exposed as "
        "rlhf_trainer_metric and no rule looks at them. Your own, or renamed by another version of TRL?"
    )


def missing(record: StepRecord, algorithm: str) -> str:
    """A sentence about core signals that a first step lacks, and the unknown keys that may be theirs now."""
    absent = [name for name in CORE.get(algorithm, ()) if name not in record.values]
    if not absent:
        return ""
    family = family_of(algorithm)
    keys = [key for key, signal in family.keys.items() if signal in absent]
    return (
        f"{algorithm} logged none of {_listed(keys)}, so that rlhf_otel has no {_listed(absent)} and rules about it "
        f"are silent. Unknown keys, exposed as rlhf_trainer_metric: {_listed(unknown(record.unmapped, algorithm))}. "
        "Was a key renamed (another version of TRL, or a subclass)?"
    )


def unknown(keys: Iterable[str], algorithm: str) -> list[str]:
    """Keys that are neither mapped nor meant to pass through, of those that are not."""
    passed = family_of(algorithm).passed
    return [key for key in keys if not any(fnmatchcase(key, pattern) for pattern in passed)]


def _numbers(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:10]) or "none"
