"""What the attempt before did in vain, from the journal that it left."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from rlhf_otel.exporters.journal import journal_files
from rlhf_otel.exporters.journal_lines import decode

TAIL_BYTES: Final = 1 << 18
"""Read from the end of the last file: some records, the last of which tells until when that attempt worked."""


def lost_seconds(directory: Path, run_id: str, since_s: float | None) -> float:
    """Seconds that the last attempt of a run worked after ``since_s``, the Unix time of the checkpoint that is gone on
    from, or after its begin where that is None. 0 where the last journal is another run's, or there is none.

    Time in which nothing ran is not among them. To be asked before a new file is begun.
    """
    files = journal_files(directory) if directory.is_dir() else []
    if not files:
        return 0.0
    first, last = _ends(files[-1])
    if first.get("type") != "run" or first.get("run_id") != run_id:
        return 0.0
    try:
        began = float(first["time"])
        until = float(last.get("time", began))
    except (LookupError, TypeError, ValueError, OverflowError):  # a journal that somebody has written himself
        return 0.0
    return max(0.0, until - max(since_s or 0.0, began))


def _ends(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A file's first record and its last whole one; empty where there is none."""
    with file.open("rb") as lines:
        first = _record(lines.readline())
        size = lines.seek(0, os.SEEK_END)
        lines.seek(max(0, size - TAIL_BYTES))
        tail = lines.read().splitlines(keepends=True)
    whole = (_record(line) for line in reversed(tail))
    return first, next((record for record in whole if "time" in record), {})


def _record(line: bytes) -> dict[str, Any]:
    if line.endswith(b"\n"):
        with contextlib.suppress(ValueError):
            return decode(line)
    return {}
