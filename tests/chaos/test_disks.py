"""Disks that are full, read-only, slow, or not there."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from observing import ScrapeEachStep, journal, once_per_fault
from outcomes import STEPS, Outcome, outcome

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters import journal as journal_module


def test_a_journal_directory_that_cannot_be(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "file" / "journal")
    assert outcome(tmp_path, [telemetry, scraping]) == unobserved
    check_each_file_told_once(caplog)
    last = scraping.scrapes[STEPS]
    assert last("rlhf_telemetry_faults_total", place="journal") >= 1
    assert last("rlhf_telemetry_dropped_total", exporter="journal") >= STEPS


@contextlib.contextmanager
def small_disk(folder: Path, options: str = "size=16k") -> Iterator[bool]:
    """A file system of its own in ``folder``; False where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            _fill_after(monkeypatch, 3)
        telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "disk" / "journal")
        assert outcome(tmp_path, [telemetry]) == unobserved
        assert telemetry.run is not None
        counts = telemetry.run.view().telemetry
        assert counts.dropped["journal"] > 0
        records = journal(tmp_path / "disk" / "journal")
        assert records[0]["type"] == "run", "what was written before is whole"
    check_each_file_told_once(caplog)


def check_each_file_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The journal, and the file of traces beside it, which has the same disk."""
    told = once_per_fault(caplog)
    assert told["writing the journal"] == 1
    assert set(told.values()) == {1}
    assert all("journal" in doing or "trace file" in doing for doing in told)


def _fill_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    left = iter(range(writes))
    put = journal_module.JournalWriter._put

    def full(self: Any, line: bytes) -> None:
        if next(left, None) is None:
            raise OSError(28, os.strerror(28))
        put(self, line)

    monkeypatch.setattr(journal_module.JournalWriter, "_put", full)


def test_a_disk_that_is_read_only(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "size=1m,ro") as mounted:
        if not mounted:
            pytest.skip("mounting a file system needs root")
        scraping = ScrapeEachStep()
        telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "disk" / "journal")
        assert outcome(tmp_path, [telemetry, scraping]) == unobserved
    check_each_file_told_once(caplog)
    assert scraping.scrapes[STEPS]("rlhf_telemetry_dropped_total", exporter="journal") >= STEPS
