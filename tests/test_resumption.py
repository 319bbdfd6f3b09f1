"""What a run takes from the state in a checkpoint, which may be damaged or anybody's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_otel import faults, resumption

GOOD: dict[str, Any] = {"run_id": "grpo-7", "attempt": 2, "step": 100, "baselines": {}}


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    resumption.save(tmp_path, GOOD)
    assert resumption.load(tmp_path) == {"version": resumption.VERSION, **GOOD}
    assert faults.total() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempt": "x"},
        {"attempt": -1},
        {"attempt": True},
        {"attempt": float("inf")},
        {"attempt": 10**30},
        {"run_id": 5},
        {"run_id": ""},
        {"run_id": "x" * 100_000},
        {"version": 2},
    ],
    ids=lambda wrong: json.dumps(wrong)[:30],
)
def test_a_state_that_no_run_can_go_on_from_is_a_fault_and_the_run_begins_afresh(
    wrong: dict[str, Any], tmp_path: Path
) -> None:
    resumption.save(tmp_path, {**GOOD, **wrong})
    assert resumption.load(tmp_path) == {}
    assert faults.total() == 1
