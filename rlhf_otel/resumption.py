"""What an attempt leaves for the next one: a small file in each checkpoint, by rank 0, in the background.

It holds the run's id, the attempt, the step and the baselines, so that a resumed run is judged by what was
usual before. Counters are not in it: they start at 0 in each process, as Prometheus expects.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rlhf_otel import faults

FILE: Final = "rlhf_otel_state.json"
VERSION: Final = 1
MAX_RUN_ID: Final = 1000
"""Characters: more than a setting, or the name of a directory, has."""
MAX_ATTEMPT: Final = 1_000_000
"""Far more than any run has, and a whole number that every exporter can hold."""


def save(checkpoint: Path, state: Mapping[str, Any]) -> None:
    """Write ``state`` into a checkpoint's directory, whole or not at all; nothing if that is gone."""
    path = checkpoint / FILE
    partial = path.with_name(f".{FILE}.{os.getpid()}")
    try:
        partial.write_text(json.dumps({"version": VERSION, **state}), encoding="utf-8")
        partial.replace(path)
    except FileNotFoundError:  # save_total_limit has taken the checkpoint away meanwhile
        return


def load(checkpoint: Path | None) -> dict[str, Any]:
    """The state in a checkpoint; empty without one, and, with a fault, where it cannot be read."""
    if checkpoint is None:
        return {}
    path = checkpoint / FILE
    with faults.isolated("callback", f"reading {FILE}"):
        if not path.exists():
            return {}
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise ValueError(f"{path} is not a state of version {VERSION}")
        if not _names_an_attempt(state):
            raise ValueError(f"{path} names no run and attempt")
        return state
    return {}  # type: ignore[unreachable]  # isolated() may swallow the exception


def _names_an_attempt(state: Mapping[str, Any]) -> bool:
    """Whether a run can go on under the state's name: a file in a checkpoint may be anybody's."""
    run_id, attempt = state.get("run_id"), state.get("attempt")
    named = isinstance(run_id, str) and 0 < len(run_id) <= MAX_RUN_ID
    return named and type(attempt) is int and 0 < attempt <= MAX_ATTEMPT


def resumed_checkpoint(given: Any, output_dir: str, step: int) -> Path | None:
    """The checkpoint that training goes on from: ``given`` to ``train``, or that of ``step``; None at step 0.

    ``given`` is ``resume_from_checkpoint``: a path, True for the last one in ``output_dir``, or nothing.
    """
    if step == 0:
        return None
    if isinstance(given, str | os.PathLike):
        return Path(given)
    return Path(output_dir) / f"checkpoint-{step}"
