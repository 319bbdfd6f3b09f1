"""Checkpoints: whether the next one is overdue, and whether the disk has room for it. On the background thread."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any, Final

LOOK_SECONDS: Final = 30.0
"""Between two looks at the disk."""


class CheckpointRoom:
    """What is known of a run's checkpoints."""

    def __init__(self, interval: int | None, directory: Path, first_step: int) -> None:
        """``interval`` is the planned number of steps between two; None where none is planned by steps."""
        self._interval = interval
        self._directory = directory
        self._last_step = first_step
        self._size = 0
        self._room: float | None = None
        self._looked = 0.0

    def saved(self, step: int, path: Path) -> None:
        """A checkpoint has been written to ``path``."""
        self._last_step = step
        self._size = _size(path)
        self._looked = 0.0

    def signals(self, step: int) -> dict[str, float]:
        """The signals that are known at ``step``."""
        found = {}
        if self._interval:
            found["checkpoint_age"] = (step - self._last_step) / self._interval
        if self._size and time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            self._room = self._free() / self._size
        if self._room is not None:
            found["checkpoint_room"] = self._room
        return found

    def _free(self) -> int:
        place = next((p for p in (self._directory, *self._directory.parents) if p.is_dir()), Path())
        return shutil.disk_usage(place).free


def planned_interval(trainer: Any, planned_steps: int) -> int | None:
    """Steps between two checkpoints by the trainer's arguments; None where it does not save by steps."""
    args = getattr(trainer, "args", None)
    strategy = getattr(args, "save_strategy", None)
    steps = getattr(args, "save_steps", None)
    if getattr(strategy, "value", strategy) != "steps" or not isinstance(steps, int | float) or steps <= 0:
        return None
    return max(1, round(steps * planned_steps)) if steps < 1 else int(steps)


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).stat().st_size
            except OSError:  # taken away meanwhile
                continue
    return total
