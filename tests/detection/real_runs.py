"""Copies of real runs that ``benchmarks/evidence.py`` and ``further_runs.py`` have made: step records with what rules read."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path

from rlhf_otel.records import StepRecord
from rlhf_otel.replay.engine import run
from rlhf_otel.replay.readers.journal import step_of

FOLDER = Path(__file__).parent.parent / "data" / "runs"
NAMES = tuple(sorted(path.name.removesuffix(".jsonl.gz") for path in FOLDER.glob("*.jsonl.gz")))


@functools.cache
def records(name: str) -> tuple[StepRecord, ...]:
    """A run's steps, not to be changed."""
    with gzip.open(FOLDER / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return tuple(step_of(json.loads(line)) for line in lines)


@functools.cache
def fired(name: str) -> frozenset[str]:
    """The rules that fire on a run."""
    return frozenset(anomaly.rule for anomaly in run(records(name)))


@functools.cache
def signals(name: str) -> frozenset[str]:
    """The signals that a run had at 20 steps or more, so that rules could have been broken."""
    steps = records(name)
    every = {signal for record in steps for signal in record.values}
    return frozenset(s for s in every if sum(s in record.values for record in steps) >= 20)
