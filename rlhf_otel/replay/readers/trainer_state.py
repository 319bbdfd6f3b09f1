"""``trainer_state.json`` of transformers, or a JSON list of log dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlhf_otel import json_text
from rlhf_otel.errors import ReplayError
from rlhf_otel.replay.following import Following, LogReplacedError
from rlhf_otel.replay.rows import Row, row_of

FORMAT = "trainer_state"
SUMMARY = "train_runtime"
"""A key of what transformers logs once, after the last step."""


def log_dicts(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The log dicts, and whether they are of a real trainer state. ReplayError where there are none."""
    try:
        content = json_text.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        hint = "cut off? Take the trainer_state.json of a checkpoint that was saved whole, or the journal"
        raise ReplayError(f"{path} is not JSON ({error}): {hint}") from None
    is_state = isinstance(content, dict)
    history = content.get("log_history") if is_state else content
    if not isinstance(history, list):
        raise ReplayError(f"{path} has no log_history: neither a trainer_state.json nor a list of log dicts")
    for number, entry in enumerate(history, 1):
        if not isinstance(entry, dict):
            raise ReplayError(f"{path}: entry {number} is {entry!r:.60}, not a log dict")
    return history, is_state


def rows(
    locate: Callable[[], Path], history: list[dict[str, Any]], following: Following | None
) -> Iterator[Row]:
    """Rows of ``history`` and, when following, those that later versions of the file add: it is rewritten at
    each save, or a newer checkpoint has a longer one. Ends with the summary of training."""
    yield from map(row_of, history)
    version = None
    while following is not None and not (history and SUMMARY in history[-1]):
        path = locate()
        found = (path, *_version(path))
        if found != version:
            longer = _longer(path, history)
            if longer is not None:
                version = found
                fresh, history = longer[len(history) :], longer
                yield from map(row_of, fresh)
                continue
        if not following.wait():
            return


def _longer(path: Path, seen: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """The log dicts; None while the file is being written."""
    try:
        history, _ = log_dicts(path)
    except (ReplayError, OSError):
        return None
    # repr: a NaN is not equal to itself
    if repr(history[: len(seen)]) != repr(seen):
        raise LogReplacedError(f"{path} was replaced by another log")
    return history


def _version(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:  # between the removal and the renaming of a rewrite
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns
