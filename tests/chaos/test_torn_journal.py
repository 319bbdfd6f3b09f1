"""The journal of a real run, torn at every byte: all records before the tear are read, and the next attempt writes on."""

from __future__ import annotations

from pathlib import Path

import pytest
from observing import journal
from outcomes import outcome

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters.journal import JournalWriter, read_journal


@pytest.mark.slow
def test_a_journal_torn_at_every_byte(tmp_path: Path) -> None:
    outcome(
        tmp_path / "run", [TelemetryCallback(metrics_port="off", journal=tmp_path / "whole")], max_steps=2
    )
    (written,) = (tmp_path / "whole").glob("journal-*.jsonl")
    content, records = written.read_bytes(), journal(tmp_path / "whole")
    assert len(records) > 3
    torn = tmp_path / "torn" / written.name
    torn.parent.mkdir()
    for cut in range(len(content)):
        torn.write_bytes(content[:cut])
        assert list(read_journal(torn)) == records[: content[:cut].count(b"\n")]


def test_a_torn_journal_is_written_on(tmp_path: Path) -> None:
    outcome(tmp_path / "run", [TelemetryCallback(metrics_port="off", journal=tmp_path / "j")], max_steps=2)
    (written,) = (tmp_path / "j").glob("journal-*.jsonl")
    written.write_bytes(written.read_bytes()[:-5])
    before = journal(tmp_path / "j")
    writer = JournalWriter(tmp_path / "j")
    writer.write({"type": "step", "step": 99})
    writer.close()
    assert journal(tmp_path / "j") == [*before, {"type": "step", "step": 99}]
