"""Profiles of a real run, asked for from another process and by a signal; told in journal, trace and terminal."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny import build_trainer, variety
from transformers import TrainerCallback

from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.cli import commands
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.profiling.requests import folder_of

pytestmark = [pytest.mark.usefixtures("strict"), pytest.mark.timeout(300)]

PATIENCE_S = 240.0


class UntilProfiled(TrainerCallback):
    """Does ``at_step_3``, and ends training when there is a profile, or after a while."""

    def __init__(self, journal: Path, at_step_3: Any) -> None:
        self.journal = journal
        self.at_step_3 = at_step_3
        self.deadline = time.monotonic() + PATIENCE_S

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            self.at_step_3()
        time.sleep(0.05)
        text = "".join(path.read_text() for path in self.journal.glob("journal-*.jsonl"))
        control.should_training_stop = '"type":"profile"' in text or time.monotonic() > self.deadline


def run(folder: Path, at_step_3: Any, **settings: Any) -> Path:
    journal = folder / "journal"
    callback = TelemetryCallback(metrics_port="off", journal=journal, **settings)
    build_trainer(
        folder, [UntilProfiled(journal, at_step_3), callback], reward_funcs=[variety], max_steps=100_000
    ).train()
    return journal


def told(journal: Path, asked_by: str) -> tuple[Path, list[int]]:
    """The profile, and the steps that it covers by the journal."""
    records = list(read_journal(journal))
    (profile,) = (record for record in records if record["type"] == "profile")
    assert (profile["asked_by"], profile["outcome"]) == (asked_by, "done")
    steps = [record["step"] for record in records if record.get("profile") == profile["detail"]]
    trace = json.loads(gzip.decompress(Path(profile["detail"]).read_bytes()))
    assert any("Optimizer.step" in event.get("name", "") for event in trace["traceEvents"])
    return Path(profile["detail"]), steps


def test_the_command_has_the_next_steps_profiled(tmp_path: Path) -> None:
    started: list[subprocess.Popen[str]] = []

    def ask() -> None:
        script = "from rlhf_otel.cli import main; main()"
        arguments = ["profile", "--pid", str(os.getpid()), "--steps", "2"]
        started.append(
            subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
        )

    journal = run(tmp_path, ask)
    path, steps = told(journal, "request")
    assert len(steps) == 2
    assert path.name == f"profile-rank0-step-{steps[0]}.json.gz"
    output, _ = started[0].communicate(timeout=60)
    assert f"wrote {path}" in output

    kept = [
        json.loads(line.rstrip(",\n")) for line in (journal / "trace-rank0.json").open() if '"step ' in line
    ]
    assert [one["args"]["step"] for one in kept if one["args"].get("profile") == str(path)] == steps
    report = CliRunner().invoke(commands, ["trace", str(journal), "--steps", f"{steps[0]}:{steps[1]}"])
    assert report.output.count(f"profile: {path}") == 2
    assert not (folder_of(os.getuid()) / f"{os.getpid()}.json").exists(), "it takes no more requests"


def test_a_signal_has_them_profiled_and_reaches_the_handler_before(tmp_path: Path) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: received.append(number))
    chained = signal.getsignal(signal.SIGUSR2)
    try:
        journal = run(tmp_path, lambda: os.kill(os.getpid(), signal.SIGUSR2), profile_signal="SIGUSR2")
        assert signal.getsignal(signal.SIGUSR2) is chained
    finally:
        signal.signal(signal.SIGUSR2, before)
    _, steps = told(journal, "signal")
    assert (received, len(steps)) == ([signal.SIGUSR2], 3)
