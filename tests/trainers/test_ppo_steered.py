"""PPO on TRL 1.12 has a loop of its own: it is stopped all the same, and bad updates of it are dropped."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import ROOT, WITHIN_S, interpreter

pytestmark = pytest.mark.slow

STEPS = 6
STRUCK = 2
"""Step after which the script strikes."""


def steer(folder: Path, how: str) -> dict[str, Any]:
    script = ROOT / "tests/environments/steer.py"
    done = subprocess.run(
        [str(interpreter("ppo")), "-W", "ignore", str(script), str(folder), how],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert found["faults"] == 0
    return found


def test_it_saves_and_is_left_one_step_later(tmp_path: Path) -> None:
    found = steer(tmp_path, "stop")
    assert found["error"] == "TrainingStopped"
    assert found["step"] == STRUCK + 1
    assert found["checkpoints"] == [f"checkpoint-{STRUCK}"]
    assert found["end"] == ["interrupted", "stopped by an action: a test"]


def test_without_the_guard_its_weights_are_lost(tmp_path: Path) -> None:
    found = steer(tmp_path, "off")
    assert not found["finite"]
    assert found["step"] < STEPS


def test_with_the_guard_it_goes_on(tmp_path: Path) -> None:
    found = steer(tmp_path, "drop")
    assert found["finite"]
    assert found["step"] == STEPS
    assert found["dropped"] >= 1
    assert found["end"] == ["finished", ""]
    assert len(found["bundles"]) == 1, "one a step, however many updates it makes"
