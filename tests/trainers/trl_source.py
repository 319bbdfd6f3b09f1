"""What the source of TRL's trainers says that they log, whether or not a tiny run gets there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_KEY: Final = re.compile(
    r"""(?:self\.(?:_metrics\[[^\]]+\]|metrics|stats)|(?<![\w.])metrics)\[f?"(?P<key>[^"]+)"\]"""
)
"""Where trainers note what they will log."""
_PARTS: Final = ("", "name", "on_policy", "off_policy", "sdpo")
"""What stands for a name that TRL puts into a key."""
_SUMMED: Final = re.compile(r"(?P<of>.+)_sum\Z|count/.+\Z")
"""KTO and BCO divide sums by counts as they log."""


def package(python: Path) -> Path:
    """The package of the environment that has this interpreter."""
    (found,) = python.parent.parent.glob("lib/python*/site-packages/trl")
    return found


def keys(package: Path) -> Iterator[tuple[str, str]]:
    """Algorithm and key, as they are logged."""
    for source in _trainers(package):
        for found in _KEY.finditer(source.read_text(encoding="utf-8")):
            summed = _SUMMED.match(found["key"])
            if summed is None:
                yield _algorithm(source), found["key"]
            elif summed["of"]:
                yield _algorithm(source), summed["of"]


def spellings(key: str) -> set[str]:
    """What a key can be, whose parts in braces TRL fills in."""
    return {re.sub(r"{[^}]*}", part, key) for part in _PARTS}


def algorithms(package: Path) -> set[str]:
    """Of all trainers there, as in ``RunIdentity.algorithm``."""
    return {_algorithm(source) for source in _trainers(package)} - {"base"}


def _trainers(package: Path) -> list[Path]:
    return sorted(package.rglob("*_trainer.py"))


def _algorithm(source: Path) -> str:
    return source.stem.removesuffix("_trainer").replace("_", "")
