"""How the demo begins and ends, whatever it trains: nothing is left running, nothing is mixed, nothing is silent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from rlhf_otel.demo import orchestrate
from rlhf_otel.demo.signals import ending_by_signals
from rlhf_otel.errors import DemoError

LIMIT_S = 60.0
needs_servers = pytest.mark.skipif(
    shutil.which("prometheus") is None
    or (shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")) is None,
    reason="prometheus and alertmanager are not installed",
)


def awaited(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and not condition():
        time.sleep(0.05)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_once_and_is_then_given_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    unwound = []

    def interrupted() -> None:
        with ending_by_signals():
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)  # the impatient second one
                unwound.append(True)

    with pytest.raises(SystemExit) as ended:
        interrupted()
    assert ended.value.code == 128 + number
    assert unwound == [True]
    assert signal.getsignal(number) is before


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def names(process: psutil.Process) -> str:
    return " ".join(" ".join(child.cmdline()) for child in living(process.children(recursive=True)))


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@needs_servers
@pytest.mark.servers
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_demo_that_is_told_to_end_takes_everything_with_it(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-c", "from rlhf_otel.cli import main; main()", "demo", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as demo:
        process = psutil.Process(demo.pid)
        assert awaited(lambda: "rlhf_otel.demo.train" in names(process)), "training did not begin"
        children = process.children(recursive=True)
        assert {"prometheus-a.yml", "prometheus-b.yml", "alertmanager.yml"} <= {
            Path(part).name for child in children for part in child.cmdline()
        }
        demo.send_signal(number)
        assert demo.wait(LIMIT_S) == 128 + number
    assert awaited(lambda: not living(children)), living(children)


def options(run_dir: Path, keep: bool = False) -> orchestrate.Options:
    return orchestrate.Options(run_dir, "none", 20, 9, 0, keep, None, frozenset())


@pytest.mark.parametrize("left", ["train.log", "fault.json", "journal/journal-00000.jsonl"])
def test_a_folder_with_an_earlier_run_is_refused_and_left_alone(tmp_path: Path, left: str) -> None:
    (tmp_path / left).parent.mkdir(exist_ok=True)
    (tmp_path / left).write_text("of an earlier run")
    with pytest.raises(DemoError, match="--dir"):
        orchestrate.run_demo(options(tmp_path), Console(record=True))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / left]
    assert (tmp_path / left).read_text() == "of an earlier run"
