"""``trainer_state.json`` of transformers, or a JSON list of log dicts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_otel.errors import ReplayError
from rlhf_otel.replay.following import Following, LogReplacedError
from rlhf_otel.replay.rows import Row, row_of

FORMAT = "trainer_state"


def log_dicts(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The log dicts, and whether they are of a real trainer state. ReplayError where there are none."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ReplayError(f"{path} is not JSON: {error}") from None
    is_state = isinstance(content, dict)
    history = content.get("log_history") if is_state else content
    if not isinstance(history, list):
        raise ReplayError(f"{path} has no log_history: neither a trainer_state.json nor a list of log dicts")
    for number, entry in enumerate(history, 1):
        if not isinstance(entry, dict):
            raise ReplayError(f"{path}: entry {number} is {entry!r:.60}, not a log dict")
    return history, is_state


def rows(path: Path, following: Following | None) -> Iterator[Row]:
    """Rows and, when following, those that later versions of the file add: it is rewritten at each save."""
    seen: list[dict[str, Any]] = []
    version = None
    while True:
        found = _version(path)
        if found != version:
            history = _history(path, seen, following)
            if history is not None:
                version = found
                fresh, seen = history[len(seen) :], history
                yield from map(row_of, fresh)
        if following is None or not following.wait():
            return


def _history(
    path: Path, seen: list[dict[str, Any]], following: Following | None
) -> list[dict[str, Any]] | None:
    """The log dicts; None while the file is being written."""
    try:
        history, _ = log_dicts(path)
    except (ReplayError, OSError):
        if following is None or not seen:
            raise
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
