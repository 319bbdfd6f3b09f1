"""Blocks of a Prometheus data directory, made by promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from rlhf_otel.errors import ReplayError

_BLOCK: Final = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")
_INSTALL: Final = "it comes with Prometheus, https://prometheus.io/download/"


def check_data_directory(directory: Path) -> None:
    """ReplayError unless ``directory`` is Prometheus' data directory, or empty."""
    if not directory.is_dir():
        raise ReplayError(
            f"{directory} is no directory; --data-dir is what Prometheus has as --storage.tsdb.path (not its address)"
        )
    names = {each.name for each in directory.iterdir()}
    known = {"wal", "chunks_head", "lock", "queries.active"}
    if names and not names & known and not any(_BLOCK.fullmatch(name) for name in names):
        raise ReplayError(
            f"{directory} is no data directory of Prometheus: it has neither blocks nor a wal in it"
        )


def create(lines: Iterable[str], directory: Path, promtool: str = "promtool") -> list[Path]:
    """Write OpenMetrics ``lines`` as blocks into ``directory``; returns the new blocks. ReplayError where promtool
    is missing or refuses."""
    if shutil.which(promtool) is None:
        raise ReplayError(f"{promtool} is not installed; {_INSTALL}")
    before = _blocks(directory)
    with tempfile.TemporaryDirectory(prefix="rlhf-otel-") as scratch:
        path = Path(scratch) / "run.om"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        command = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(path), str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ReplayError(f"promtool wrote no blocks: {said[-1] if said else f'exit code {done.returncode}'}")
    return sorted(_blocks(directory) - before)


def _blocks(directory: Path) -> set[Path]:
    return {each for each in directory.iterdir() if _BLOCK.fullmatch(each.name)}
