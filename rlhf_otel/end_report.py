"""A report at the end of a run, by a process of its own: the training process neither imports nor computes for it."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Final

from rlhf_otel import faults
from rlhf_otel.checkpoints.process import child_environment

logger = logging.getLogger("rlhf_otel")

WAIT_S: Final = 20.0
"""Bound for the wait for it, so that it is there when ``train()`` returns."""
FILES: Final = ("report.html", "report.md", "report.json")
"""What is written beside the journal."""
_PROGRAM: Final = "from rlhf_otel.cli import main; main()"


def write(journal: Path, wait: bool) -> None:
    """Have the reports written; ``wait`` for them, unless the process is in a hurry."""
    outs = [argument for name in FILES for argument in ("--out", str(journal / name))]
    command = [sys.executable, "-c", _PROGRAM, "report", str(journal), *outs]
    with faults.isolated("journal", "writing the report of a run"):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=child_environment(),
        )
        if not wait:
            return
        try:
            said = process.communicate(timeout=WAIT_S)[1]
        except subprocess.TimeoutExpired:
            logger.warning("the report is still being written to %s", journal)
            return
        if process.returncode:
            raise RuntimeError(f"the report could not be written: {said.strip()[-500:]}")
        logger.info("report: %s", journal / FILES[0])
