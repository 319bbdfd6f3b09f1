"""Every broken checkpoint is found and its fault named; no sound one is called broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
from checkpoint_cases import BROKEN, SOUND, Broken, Sound

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.checkpoints import inspect


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_checkpoint_is_found_and_its_fault_named(case: Broken, tmp_path: Path) -> None:
    path, before = case.make(tmp_path)
    found = inspect(path, before, threads=1)
    named = [finding for finding in found.findings if finding.name == case.finding]
    assert any(case.where in finding.where for finding in named), found.findings
    assert found.health <= 0.7
    assert found.worth_attention


@pytest.mark.parametrize("case", SOUND, ids=lambda case: case.name)
def test_a_sound_checkpoint_is_healthy(case: Sound, tmp_path: Path) -> None:
    path, before = case.make(tmp_path)
    found = inspect(path, before, threads=1)
    assert not [finding for finding in found.findings if finding.severity is not Severity.INFO], (
        found.findings
    )
    assert found.health >= 0.9
    assert found.weights
