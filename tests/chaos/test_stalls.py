"""A run that stalls on the way, with its stacks taken, is the same run, to the last bit."""

from __future__ import annotations

from pathlib import Path

from awaiting import Awaiting
from observing import journal
from outcomes import STEPS, Outcome, outcome

from rlhf_otel import TelemetryCallback
from rlhf_otel.stalls import timer


def test_a_stall_and_its_stacks_change_nothing(unobserved: Outcome, tmp_path: Path) -> None:
    telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal", stall_floor_s=0.1)
    stalled = Awaiting(lambda: telemetry.run is not None and telemetry.run.stalls.count > 0)
    assert outcome(tmp_path, [stalled, telemetry]) == unobserved
    assert telemetry.run is not None
    told = journal(tmp_path / "journal", "stall")
    assert len(told) == telemetry.run.stalls.count > 0
    assert STEPS - 1 in {record["step"] for record in told}
    assert "wait_until" in (tmp_path / "journal" / "stacks-rank0.txt").read_text()
    assert not timer._armed
