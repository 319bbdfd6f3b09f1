"""A trainer that is found only in the midst of ``train()``, as TRL's PPO is: how it ends is still known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import late
import pytest

from rlhf_otel.exporters.journal import read_journal

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("how", "error", "outcome", "reason"),
    [
        ("fail", "ConnectionError", "failed", "ConnectionError: the reward service hung up"),
        pytest.param(
            "stop",
            "TrainingStopped",
            "interrupted",
            "stopped by an action: a test",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_end_of_a_process_that_fails_or_is_stopped(
    tmp_path: Path, how: str, error: str, outcome: str, reason: str
) -> None:
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, late.__file__, str(tmp_path), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert error in done.stderr
    *_, end = [record for record in read_journal(tmp_path / "out" / "rlhf_otel") if record["type"] == "end"]
    assert (end["outcome"], end["reason"]) == (outcome, reason)
