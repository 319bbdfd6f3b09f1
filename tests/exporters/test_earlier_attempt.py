"""What the attempt before did in vain, from the journal that it left."""

from __future__ import annotations

from pathlib import Path

from rlhf_otel.exporters.earlier_attempt import lost_seconds
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.journal_records import run_record
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import RunIdentity
from rlhf_otel.settings import Settings

BEGAN, ENDED = 1_000.0, 1_500.0


def left_behind(directory: Path, run_id: str = "r", steps: int = 5) -> None:
    """A journal of an attempt that began at 1,000 s and did a step each 100 s."""
    writer = JournalWriter(directory)
    writer.write(run_record(RunIdentity(run_id), {}, int(BEGAN * 1e9)))
    for step in range(1, steps + 1):
        writer.write({"type": "step", "step": step, "time": BEGAN + 100 * step, "text": "x" * 100_000})
    writer.close()


def test_what_came_after_the_checkpoint_is_lost(tmp_path: Path) -> None:
    left_behind(tmp_path)
    assert lost_seconds(tmp_path, "r", 1_200.0) == 300.0
    assert lost_seconds(tmp_path, "r", 1_500.0) == lost_seconds(tmp_path, "r", 2_000.0) == 0.0


def test_without_a_checkpoint_all_is_lost(tmp_path: Path) -> None:
    left_behind(tmp_path)
    assert lost_seconds(tmp_path, "r", None) == ENDED - BEGAN


def test_nothing_is_lost_of_another_run_or_without_a_journal(tmp_path: Path) -> None:
    assert lost_seconds(tmp_path, "r", None) == lost_seconds(tmp_path / "absent", "r", None) == 0.0
    left_behind(tmp_path, "another")
    assert lost_seconds(tmp_path, "r", None) == 0.0


def test_a_torn_line_at_the_end_is_passed_over(tmp_path: Path) -> None:
    left_behind(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert lost_seconds(tmp_path, "r", 1_200.0) == 200.0


def test_a_second_attempt_counts_what_was_lost(tmp_path: Path) -> None:
    left_behind(tmp_path)
    for attempt, expected in ((1, {}), (2, {"restart": 300.0})):
        pipeline = Pipeline(RunIdentity("r", attempt=attempt), Settings(journal="off"), tmp_path)
        pipeline._begin({}, 1_200.0)
        assert pipeline.snapshot.wasted == expected
        pipeline.close()
        if attempt == 1:
            sorted(tmp_path.glob("journal-*"))[-1].unlink()
