"""A process's entry for Prometheus' file_sd: what it says, when it goes, whose it may take away."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from otlp_receiver import free_port

from rlhf_otel.exporters.file_sd import HOST_LABEL, STALE_S, TargetFile, file_name, target_of
from rlhf_otel.records import RunIdentity

ELSEWHERE = "a-host-that-is-not-this-one"


def identity(run_id: str = "run", rank: int = 0) -> RunIdentity:
    return RunIdentity(run_id, rank=rank, team="post-training", cluster="c1")


def entry(path: Path) -> tuple[str, dict[str, str]]:
    """Target and labels in a file."""
    (group,) = json.loads(path.read_text())
    return group["targets"][0], group["labels"]


def write(directory: Path, name: str, target: str, host: str, **labels: str) -> Path:
    """An entry that some process left there."""
    given = {"run_id": "old", "rank": "0", "team": "", "cluster": "", HOST_LABEL: host, **labels}
    path = directory / name
    path.write_text(json.dumps([{"targets": [target], "labels": given}]))
    return path


@pytest.fixture
def listening() -> Any:
    """The address of a port of this host where somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def refusing() -> str:
    """The address of a port of this host where nobody listens."""
    return f"127.0.0.1:{free_port()}"


def test_an_entry_says_whose_target_it_is(tmp_path: Path) -> None:
    TargetFile().keep(tmp_path / "new", identity(rank=3), "host:9467")
    (path,) = (tmp_path / "new").iterdir()
    assert entry(path) == (
        "host:9467",
        {
            "run_id": "run",
            "rank": "3",
            "team": "post-training",
            "cluster": "c1",
            HOST_LABEL: socket.gethostname(),
        },
    )


def test_dropping_it(tmp_path: Path) -> None:
    target = TargetFile()
    assert not target.drop()
    target.keep(tmp_path, identity(), "host:1")
    assert target.present
    assert target.drop()
    assert list(tmp_path.iterdir()) == []
    assert not target.present
    assert not target.drop()


def test_another_run_of_the_process_takes_its_place(tmp_path: Path) -> None:
    target = TargetFile()
    target.keep(tmp_path, identity("first"), "host:1")
    target.keep(tmp_path, identity("second"), "host:1")
    assert [entry(path)[1]["run_id"] for path in tmp_path.iterdir()] == ["second"]


def test_a_successor_replaces_it_by_name_and_keeps_it(tmp_path: Path) -> None:
    before, after = TargetFile(), TargetFile()
    before.keep(tmp_path, identity(), "host-a:1")
    after.keep(tmp_path, identity(), "host-b:1")
    before.keep(tmp_path, identity(), "host-a:1")  # it lives on, and does not fight for the name
    before.drop()
    assert [entry(path)[0] for path in tmp_path.iterdir()] == ["host-b:1"]


def test_an_entry_that_somebody_took_away_comes_back(tmp_path: Path) -> None:
    target = TargetFile()
    target.keep(tmp_path, identity(), "host:1")
    (path,) = tmp_path.iterdir()
    path.unlink()
    target.keep(tmp_path, identity(), "host:1")
    assert entry(path)[0] == "host:1"


def test_keeping_it_touches_it(tmp_path: Path) -> None:
    target = TargetFile()
    target.keep(tmp_path, identity(), "host:1")
    (path,) = tmp_path.iterdir()
    os.utime(path, (0, 0))
    target.keep(tmp_path, identity(), "host:1")
    assert path.stat().st_mtime > 0


def test_ports_of_this_host_where_nobody_listens(tmp_path: Path, listening: str) -> None:
    here = socket.gethostname()
    write(tmp_path, "killed.json", refusing(), here)
    write(tmp_path, "alive.json", listening, here)
    write(tmp_path, "elsewhere.json", refusing(), ELSEWHERE)
    TargetFile().keep(tmp_path, identity(), "host:1")
    assert {path.name for path in tmp_path.iterdir()} == {"alive.json", "elsewhere.json", "run-0.json"}


def test_an_entry_of_our_own_port_is_stale_on_this_host_alone(tmp_path: Path, listening: str) -> None:
    """Two hosts may both say ``localhost:9464`` in a directory that they share."""
    write(tmp_path, "before-us.json", listening, socket.gethostname())
    write(tmp_path, "elsewhere.json", listening, ELSEWHERE)
    TargetFile().keep(tmp_path, identity(), listening)
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere.json", "run-0.json"}


@pytest.mark.parametrize(("age_s", "stays"), [(STALE_S + 60, False), (STALE_S - 60, True), (-7200, True)])
def test_an_entry_that_nobody_touches(age_s: float, stays: bool, tmp_path: Path) -> None:
    """Wherever it was written, and whatever the clocks say: both times are those of the file system."""
    target = TargetFile()
    target.keep(tmp_path, identity(), "host:1")
    other = write(tmp_path, "elsewhere.json", "192.0.2.1:9464", ELSEWHERE)
    now = (tmp_path / "run-0.json").stat().st_mtime
    os.utime(other, (now - age_s, now - age_s))
    TargetFile().keep(tmp_path, identity(), "host:1")
    assert other.exists() is stays


def test_only_rank_0_cleans(tmp_path: Path) -> None:
    write(tmp_path, "killed.json", refusing(), socket.gethostname())
    TargetFile().keep(tmp_path, identity(rank=1), "host:1")
    assert (tmp_path / "killed.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '[{"targets": ["localhost:1"]}]',
        '[{"targets": ["localhost:1"], "labels": {"job": "theirs"}}]',
        '[{"targets": [], "labels": {}}]',
        '[{"targets": ["a:1"], "labels": {}}, {"targets": ["b:1"], "labels": {}}]',
    ],
)
def test_what_is_not_ours_stays(content: str, tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_text(content)
    os.utime(tmp_path / "theirs.json", (0, 0))
    (tmp_path / "notes.txt").write_text("x")
    TargetFile().keep(tmp_path, identity(), "localhost:1")
    assert (tmp_path / "theirs.json").read_text() == content
    assert (tmp_path / "notes.txt").exists()


def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    """Entries change all the time while somebody reads whatever matches ``*.json``, as Prometheus does."""
    stop = threading.Event()
    runs = [identity("x" * 100), identity("y" * 3)]

    def change() -> None:
        target = TargetFile()
        while not stop.is_set():
            for run in runs:
                target.keep(tmp_path, run, f"host:{len(run.run_id)}")

    writer = threading.Thread(target=change)
    writer.start()
    seen = 0
    try:
        while seen < 300:
            for path in tmp_path.glob("*.json"):
                try:
                    text = path.read_text()
                except FileNotFoundError:
                    continue
                assert json.loads(text)[0]["targets"]
                seen += 1
    finally:
        stop.set()
        writer.join()
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]


@given(st.text(max_size=300), st.text(max_size=300), st.integers(0, 20_000))
def test_names_are_safe_and_differ(first: str, second: str, rank: int) -> None:
    name = file_name(RunIdentity(first, rank=rank))
    assert len(name) < 200
    assert "/" not in name
    assert not name.startswith(".") or first.startswith(".")
    assert name.isascii()
    assert (name == file_name(RunIdentity(second, rank=rank))) is (first == second)


@pytest.mark.parametrize(
    ("host", "url", "pod", "expected"),
    [
        ("localhost", "http://localhost:9464", None, "localhost:9464"),
        ("::1", "http://[::1]:9464", None, "[::1]:9464"),
        ("0.0.0.0", "http://localhost:9465", None, f"{socket.gethostname()}:9465"),
        ("0.0.0.0", "http://localhost:9465", "10.1.2.3", "10.1.2.3:9465"),
        ("::", "http://localhost:9465", "fd00::1", "[fd00::1]:9465"),
        ("192.0.2.7", "http://192.0.2.7:9464", "10.1.2.3", "192.0.2.7:9464"),
    ],
)
def test_where_prometheus_finds_it(
    host: str, url: str, pod: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("POD_IP", raising=False)
    if pod is not None:
        monkeypatch.setenv("POD_IP", pod)
    assert target_of(host, url) == expected


def test_a_killed_process_leaves_an_entry_that_the_next_one_takes_away(tmp_path: Path) -> None:
    code = (
        "import os, socket, sys; from pathlib import Path\n"
        "from rlhf_otel.exporters.file_sd import TargetFile; from rlhf_otel.records import RunIdentity\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "target = f'127.0.0.1:{server.getsockname()[1]}'\n"
        "TargetFile().keep(Path(sys.argv[1]), RunIdentity('killed'), target)\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "killed-0.json").exists()
    TargetFile().keep(tmp_path, identity(), "host:1")
    assert [path.name for path in tmp_path.iterdir()] == ["run-0.json"]


def test_a_file_system_that_refuses_is_the_callers_to_isolate(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TargetFile().keep(tmp_path / "file", identity(), "host:1")
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
