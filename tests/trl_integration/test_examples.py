"""The examples, each a real run as its page says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from environments import TEST_TIMEOUT_S, run_python

from rlhf_otel.exporters.journal import read_journal

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_TIMEOUT_S)]


def run(name: str, output: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RLHF_OTEL_METRICS_PORT": "off"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--steps", "4", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_callbacks(tmp_path: Path) -> None:
    assert "step 4: reward" in run("callbacks", tmp_path)
    assert any(record["type"] == "end" for record in read_journal(tmp_path / "logs"))


def test_checkpoint(tmp_path: Path) -> None:
    said = run("checkpoint", tmp_path)
    assert "checkpoint-4: health 1.00, drift from checkpoint-2" in said
    assert "broken: health 0.00" in said


def test_reward(tmp_path: Path) -> None:
    said = run("reward", tmp_path)
    assert "collapsed: stability 0.00" in said
    assert "shortcut: the score follows length" in said


def test_full(tmp_path: Path) -> None:
    said = run("full", tmp_path)
    assert "Finished" in said
    assert (tmp_path / "rlhf_otel" / "report.html").stat().st_size > 1e6


def test_ppo(tmp_path: Path) -> None:
    done = run_python("ppo", str(EXAMPLES / "ppo.py"), "--steps", "4", "--output", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Finished" in done.stdout
    assert "kl_per_sequence" in done.stdout
