"""A server program that is missing skips its tests, and in CI fails them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OF_AMTOOL = "tests/generate/test_generated_files.py::test_amtool_accepts_the_configuration"


@pytest.mark.parametrize(
    ("variable", "status", "said"), [("", 0, "1 skipped"), ("true", 1, "1 error"), ("1", 1, "1 error")]
)
def test_without_the_programs(variable: str, status: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", OF_AMTOOL],
        cwd=ROOT,
        env=os.environ | {"CI": variable, "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, done.stdout
    assert said in done.stdout
    assert "amtool is not installed" in done.stdout
