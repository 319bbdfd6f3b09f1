"""Environments with other versions of TRL: ``make test`` in CI sets them up, elsewhere ``make .venv-ppo`` does."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
TRAIN = ROOT / "tests/environments/train.py"
WITHIN_S = 840
TEST_TIMEOUT_S = 900
"""Of a test that waits for another environment: a minute on a machine of its own."""


def interpreter(name: str) -> Path:
    """Python of ``.venv-<name>``; the test is skipped without one, except in CI, where that is a failure."""
    given = os.environ.get(f"RLHF_TEST_VENV_{name.upper()}")
    python = Path(given or ROOT / f".venv-{name}") / "bin/python"
    if not python.exists():
        if os.environ.get("CI") in ("true", "1"):
            pytest.fail(f"{python} is missing: `make test` sets it up")
        pytest.skip(f"`make .venv-{name}` makes the environment of this test")
    return python


def run_python(environment: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python of an environment, with this package and the tests' modules at hand."""
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("RLHF_OTEL_", "OTEL_"))}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    command = [str(interpreter(environment)), "-W", "ignore", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
        env={**quiet, "PYTHONPATH": paths},
    )


def train(environment: str, folder: Path, trainers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What ``tests/environments/train.py`` saw of tiny trainers, by name; their files are in ``folder/NAME``.

    A name may have a suffix after ":", to train one trainer twice.
    """
    tasks = [(name.partition(":")[0], str(folder / name), arguments) for name, arguments in trainers.items()]
    for _, where, _ in tasks:
        Path(where).mkdir()
    done = run_python(environment, str(TRAIN), json.dumps(tasks))
    assert done.returncode == 0, done.stdout + done.stderr
    return {
        name: json.loads((folder / name / "result.json").read_text(encoding="utf-8")) for name in trainers
    }


def train_on_two_ranks(environment: str, folder: Path, name: str, **arguments: Any) -> list[dict[str, Any]]:
    """What each of two real ranks under torchrun saw of a tiny trainer; their files are in ``folder/RANK``."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run_python(environment, *launcher, str(TRAIN), json.dumps([(name, str(folder), arguments)]))
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / rank / "result.json").read_text(encoding="utf-8")) for rank in ("0", "1")]
