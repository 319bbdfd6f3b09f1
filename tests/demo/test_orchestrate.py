"""How the demo begins and ends, whatever it trains: nothing is left running, nothing is mixed, nothing is silent."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from rlhf_otel.demo import orchestrate, servers
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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training is over at once, and nothing is waited for: what happens around it is looked at."""
    ends_at_once = [sys.executable, "-c", ""]
    monkeypatch.setattr(orchestrate, "_train", lambda *_: subprocess.Popen(ends_at_once))
    monkeypatch.setattr(orchestrate, "SETTLE_S", 0.0)


def run(run_dir: Path, keep: bool = False) -> str:
    """What the demo prints."""
    console = Console(record=True, width=300, file=io.StringIO())
    orchestrate.run_demo(options(run_dir, keep), console)
    return console.export_text()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("missing", ["prometheus", "alertmanager"])
def test_without_a_server_the_demo_runs_on_and_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(servers, "program", lambda name: None if name == missing else f"/nowhere/{name}")
    printed = run(tmp_path, keep=True)
    assert servers.HOW_TO_GET_THEM in printed
    assert "--keep: no server was started" in printed
    assert "Left running" not in printed


@needs_servers
@pytest.mark.servers
@pytest.mark.usefixtures("quick")
def test_what_is_kept_is_named_and_answers_and_the_end_of_the_receiver_is_said(tmp_path: Path) -> None:
    before = psutil.Process().children()
    printed = run(tmp_path, keep=True)
    left = [child for child in psutil.Process().children() if child not in before]
    try:
        told = re.search(r"kill ([\d ]+)", printed)
        assert told is not None
        assert {int(pid) for pid in told[1].split()} == {child.pid for child in living(left)}
        addresses = re.findall(r"http://127\.0\.0\.1:\d+", printed)
        assert len(addresses) == len(left) == 3
        for address in addresses:
            with urllib.request.urlopen(f"{address}/-/healthy", timeout=10) as answer:
                assert answer.status == 200
        assert "receiver ended" in printed
    finally:
        for child in left:
            child.terminate()
        psutil.wait_procs(left, LIMIT_S)


@needs_servers
@pytest.mark.servers
@pytest.mark.usefixtures("quick")
def test_ports_that_are_taken_are_avoided_and_a_normal_end_leaves_nothing(tmp_path: Path) -> None:
    before = psutil.Process().children(recursive=True)
    with contextlib.ExitStack() as sockets:
        for port in (9464, 9090, 9093):
            taken = sockets.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a test before linger
            with contextlib.suppress(OSError):  # then somebody else has it, which is as good
                taken.bind(("127.0.0.1", port))
                taken.listen()
        printed = run(tmp_path)
    assert "Left running" not in printed
    assert [child for child in living(psutil.Process().children(recursive=True)) if child not in before] == []
    for replica in "ab":
        config = (tmp_path / f"prometheus-{replica}.yml").read_text()
        ports = {int(port) for port in re.findall(r"(?:localhost|127\.0\.0\.1):(\d+)", config)}
        assert len(ports) == 2, "training and Alertmanager"
        assert not ports & {9464, 9093}
        log = (tmp_path / f"prometheus-{replica}.log").read_text()
        assert "127.0.0.1:9090" not in log
        assert re.search(r"127\.0\.0\.1:\d+", log)


@needs_servers
@pytest.mark.servers
def test_a_port_that_somebody_takes_meanwhile_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else this one's alerts would go to that one's Alertmanager, and page for a run of somebody else."""
    first, second = (
        servers.Servers(tmp_path / name, [], "http://localhost:9", replicas=1) for name in ("first", "second")
    )
    free_port = servers.free_port
    try:
        for each in (first, second):
            each.directory.mkdir()
            each.start()
            taken = iter([int(server.url.rpartition(":")[2]) for server in first.started])
            monkeypatch.setattr(
                servers, "free_port", lambda port, taken=taken: next(taken, None) or free_port(port)
            )
        urls = [server.url for each in (first, second) for server in each.started]
        assert len(urls) == len(set(urls)) == 4
        config = (tmp_path / "second/prometheus-a.yml").read_text()
        assert second.started[0].url.removeprefix("http://") in config
    finally:
        first.stop()
        second.stop()


@pytest.mark.usefixtures("quick")
def test_the_port_that_was_asked_for_is_taken_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "program", lambda name: None)
    asked: list[int] = []
    train = orchestrate._train
    monkeypatch.setattr(orchestrate, "_train", lambda _, port, url: asked.append(port) or train(_, port, url))
    port = servers.reserved_port()
    console = Console(file=io.StringIO())
    orchestrate.run_demo(dataclasses.replace(options(tmp_path / "free"), port=port), console)
    assert asked == [port]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(DemoError, match="--port takes another"):
        orchestrate.run_demo(dataclasses.replace(options(tmp_path / "taken"), port=port), console)
