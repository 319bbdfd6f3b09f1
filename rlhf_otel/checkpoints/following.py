"""Watching a trainer's output directory: each checkpoint is inspected once it is complete."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlhf_otel.checkpoints.contents import RECENT_S
from rlhf_otel.checkpoints.inspection import Inspection, checkpoints_in, inspect
from rlhf_otel.errors import CheckpointError

INTERVAL_S: Final = 2.0
"""Pause between two looks at the directory."""
ATTEMPTS: Final = 150
"""Looks at a directory that never becomes a checkpoint, before it is given up: 5 minutes."""

INCOMPLETE: Final = frozenset(("truncated-file", "unreadable-file", "missing-shard"))
"""Findings about a checkpoint that a writer has not finished."""

Signature = tuple[tuple[str, int, int], ...]


@dataclass(slots=True)
class Watch:
    """Yields inspections until :attr:`stop` is set."""

    directory: Path
    interval_s: float = INTERVAL_S
    stop: threading.Event = field(default_factory=threading.Event)
    failures: dict[Path, str] = field(default_factory=dict)
    """Directories that never became a checkpoint, and why."""
    _seen: dict[Path, Signature] = field(default_factory=dict)
    """What each directory looked like at the last look."""
    _done: set[Path] = field(default_factory=set)
    _looks: dict[Path, int] = field(default_factory=dict)

    def inspections(self, once: bool = False) -> Iterator[Inspection]:
        """Of checkpoints in the order of their steps, each against the one before that is still there.

        A checkpoint counts as complete when nothing in it has changed between two looks. ``once`` ends
        when all that is there has been inspected. Raises CheckpointError where the directory is none.
        """
        while True:
            found = checkpoints_in(self.directory)
            waiting = [step for step in sorted(found) if found[step] not in self._done]
            for step in waiting:
                yield from self._inspected(found, step, once)
            left = any(found[step] not in self._done for step in waiting)
            if (once and not left) or self.stop.wait(self.interval_s):
                return

    def _inspected(self, found: dict[int, Path], step: int, once: bool) -> Iterator[Inspection]:
        path = found[step]
        if not self._is_settled(path):
            return
        earlier = [other for other in found if other < step]
        try:
            inspection = inspect(path, found[max(earlier)] if earlier else None)
        except CheckpointError as error:
            if self._waits(path, once, error):
                return
            inspection = None
        if inspection is not None and not once and _still_grows(inspection):
            return
        self._done.add(path)
        if inspection is not None:
            yield inspection

    def _is_settled(self, path: Path) -> bool:
        now = _signature(path)
        before = self._seen.get(path)
        self._seen[path] = now
        return now == before

    def _waits(self, path: Path, once: bool, error: CheckpointError) -> bool:
        """Whether to look again at what is no checkpoint yet."""
        self._looks[path] = self._looks.get(path, 0) + 1
        if not path.is_dir():  # removed by save_total_limit meanwhile
            return False
        if not once and self._looks[path] < ATTEMPTS:
            return True
        self.failures[path] = str(error)
        return False


def _still_grows(inspection: Inspection) -> bool:
    """Whether files are incomplete that changed a moment ago: a writer may pause for longer than we do."""
    if not any(finding.name in INCOMPLETE for finding in inspection.findings):
        return False
    newest = max((changed for _, _, changed in _signature(inspection.path)), default=0)
    return time.time() - newest / 1e9 < RECENT_S


def _signature(path: Path) -> Signature:
    """Names, sizes and times of change of what is in a directory."""
    found = []
    for entry in sorted(path.glob("*")):
        try:
            status = entry.stat()
        except OSError:
            continue
        found.append((entry.name, status.st_size, status.st_mtime_ns))
    return tuple(found)
