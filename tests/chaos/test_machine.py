"""A GPU that is lost midway, and clocks that jump."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from awaiting import Awaiting
from observing import journal, once_per_fault
from outcomes import STEPS, Outcome, outcome

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.sources.gpu import GpuReader


def test_nvml_that_fails_midway(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: list[int] = []

    def read(self: GpuReader) -> tuple[()]:
        reads.append(len(reads))
        if len(reads) > 1:
            raise RuntimeError("GPU is lost")
        return ()

    monkeypatch.setattr(GpuReader, "read", read)
    telemetry = TelemetryCallback(metrics_port="off", system_interval_s=0.5)
    assert outcome(tmp_path, [telemetry, Awaiting(lambda: len(reads) > 2)]) == unobserved
    assert once_per_fault(caplog) == {"reading the GPU through NVML": 1}
    assert faults.counts()["system"] >= 2
    assert telemetry.run is not None
    assert telemetry.run.view().system.host is not None, "the host is read all the same"


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_clock_that_jumps(
    jump_s: int,
    unobserved: Outcome,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """As when a host that was suspended, or set wrongly, hears from its time server."""
    true_ns, true_s, shift = time.time_ns, time.time, [0]
    monkeypatch.setattr(time, "time_ns", lambda: true_ns() + shift[0] * 10**9)
    monkeypatch.setattr(time, "time", lambda: true_s() + shift[0])

    def jump() -> bool:
        shift[0] = jump_s
        return True

    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    with caplog.at_level(logging.WARNING):
        assert outcome(tmp_path, [telemetry, Awaiting(jump, 4)]) == unobserved
    steps = journal(tmp_path / "journal", "step")
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(0 < step["duration_ms"] < 60_000 for step in steps), "durations are not of that clock"
    assert sum("the clock of this host jumped" in record.getMessage() for record in caplog.records) == 1
    assert faults.total() == 0
