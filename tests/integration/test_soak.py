"""A soak in a shortened form: the whole hour is ``benchmarks/soak.py``'s."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
def test_memory_descriptors_and_threads_stay_flat(tmp_path: Path) -> None:
    report = tmp_path / "soak.json"
    command = [sys.executable, str(SOAK), "--minutes", "1.5", "--json", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert report.exists(), done.stdout + done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["anomalies"] >= 1, done.stdout
    assert found["nonfinite_losses"] >= 2, done.stdout
    assert not any(found["dropped"].values()), done.stdout
    assert not {"memory", "descriptors", "threads"} & found["grown"].keys(), done.stdout
    assert all(window["scrape_ms"] for window in found["windows"][1:]), done.stdout
