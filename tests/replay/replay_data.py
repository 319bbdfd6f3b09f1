"""Where recorded logs and public ones are, and what an observed run leaves behind."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

DATA = Path(__file__).parent.parent / "data" / "replay"
CORPUS = Path(__file__).resolve().parents[3] / "shared" / "corpus"

needs_corpus = pytest.mark.skipif(not CORPUS.exists(), reason="the folder shared/corpus is not here")


def unpacked(name: str, folder: Path) -> Path:
    """A recorded file, as it was written."""
    path = folder / name
    path.write_bytes(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    return path


class Observed(NamedTuple):
    """What a real run left behind."""

    folder: Path
    journal: Path
    trainer_state: Path
    exposed: frozenset[tuple[str, str]]
    """Sample name and its labels ``signal``, ``rule`` or ``reward_function``, at the end of the run."""


def what(labels: Mapping[str, str]) -> str:
    """What a sample is about, among the samples of its name."""
    return labels.get("signal") or labels.get("rule") or labels.get("reward_function") or ""
