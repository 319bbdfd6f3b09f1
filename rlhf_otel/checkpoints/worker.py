"""The process that inspects saved checkpoints beside a training run: ``python -m rlhf_otel.checkpoints.worker``.

One request a line on standard input, one answer a line on standard output, until the input ends. It runs at
idle priority on one thread: it gets the time that nobody else wants.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

MAX_STATE_BYTES: Final = 2 * 2**30
"""Optimizer states that are read too; larger ones take longer than the weights themselves."""

REST: Final = 3.0
"""It works a quarter of the time: memory and its caches are training's, too, and know no priority."""


def main() -> None:
    """Answer requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the user's Ctrl-C is training's business
    if "--idle" in sys.argv:
        _step_back()
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


def _step_back() -> None:
    """Idle priority for processor and disk, where the system has it."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with contextlib.suppress(Exception):  # not every system has it, or allows it
        import psutil

        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What is found at ``path``, without what is too long for a line; ``error`` where it cannot be read."""
    from rlhf_otel.checkpoints.reports.json_text import plain_summary
    from rlhf_otel.errors import CheckpointError

    try:
        found = _inspect(Path(request["path"]))
        if not found.path.exists():  # what was missing of it was being deleted, as by save_total_limit
            return {"error": f"{found.path} was removed while it was read"}
        reference = request.get("reference")
        drift = _reference_drift(found, Path(reference)) if reference else None
        return {**plain_summary(found), "reference_drift": drift}
    except CheckpointError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - it is told to the process that asked, and this one goes on
        return {"error": f"{type(error).__name__}: {error}"}


def _inspect(path: Path) -> Any:
    from rlhf_otel.checkpoints import inspect, previous
    from rlhf_otel.errors import CheckpointError

    state = _state_bytes(path) <= MAX_STATE_BYTES
    before = previous(path)
    try:
        return inspect(path, before, state, threads=1, rest=REST)
    except CheckpointError:
        if before is None:
            raise
    return inspect(path, None, state, threads=1, rest=REST)  # the one before may be gone already


def _state_bytes(path: Path) -> int:
    found = 0
    for file in path.glob("optimizer.*"):
        with contextlib.suppress(OSError):
            found += file.stat().st_size
    return found


def _reference_drift(found: Any, reference: Path) -> float | None:
    """None of what has no tensor in common with it, such as an adapter."""
    from rlhf_otel.checkpoints.comparison import drift_from
    from rlhf_otel.errors import CheckpointError

    try:
        return drift_from(found, reference, threads=1).drift
    except CheckpointError:
        return None


if __name__ == "__main__":
    main()
