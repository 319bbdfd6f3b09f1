"""Checkpoints that are overdue, and disks without room for the next."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_otel.sources.checkpoint_room import CheckpointRoom, planned_interval


def checkpoint(folder: Path, size: int) -> Path:
    path = folder / "checkpoint-10"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"x" * size)
    return path


def test_age_counts_planned_intervals_since_the_last_checkpoint(tmp_path: Path) -> None:
    room = CheckpointRoom(10, tmp_path, 0)
    assert room.signals(25)["checkpoint_age"] == 2.5
    room.saved(20, checkpoint(tmp_path, 10))
    assert room.signals(25)["checkpoint_age"] == 0.5


def test_a_resumed_run_counts_from_where_it_goes_on(tmp_path: Path) -> None:
    assert CheckpointRoom(10, tmp_path, 100).signals(105)["checkpoint_age"] == 0.5


def test_room_is_in_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=3000))
    room = CheckpointRoom(10, tmp_path / "not made yet", 0)
    assert "checkpoint_room" not in room.signals(5)
    room.saved(10, checkpoint(tmp_path, 2000))
    assert room.signals(11)["checkpoint_room"] == 1.5


def test_a_checkpoint_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    room = CheckpointRoom(10, tmp_path, 0)
    room.saved(10, tmp_path / "gone")
    assert room.signals(11) == {"checkpoint_age": 0.1}


@pytest.mark.parametrize(
    ("strategy", "steps", "planned"),
    [
        ("steps", 50, 50),
        (SimpleNamespace(value="steps"), 50, 50),
        ("steps", 0.1, 20),
        ("epoch", 50, None),
        ("no", 50, None),
        ("steps", 0, None),
    ],
)
def test_the_planned_interval(strategy: Any, steps: float, planned: int | None) -> None:
    trainer = SimpleNamespace(args=SimpleNamespace(save_strategy=strategy, save_steps=steps))
    assert planned_interval(trainer, 200) == planned


def test_a_trainer_without_arguments_plans_none() -> None:
    assert planned_interval(None, 200) is None
