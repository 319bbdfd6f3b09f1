"""A process is asked for a profile through files: who may, what is refused, and what the one who asks hears."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rlhf_otel.errors import ProfileError
from rlhf_otel.profiling import requests
from rlhf_otel.profiling.requests import LOOK_S, Desk, ask, folder_of

SOON_S = 60.0


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def asked(pid: int, steps: int = 2, timeout_s: float = SOON_S) -> tuple[threading.Thread, list[str]]:
    heard: list[str] = []

    def wait() -> None:
        try:
            heard.append(ask(pid, steps, timeout_s))
        except ProfileError as error:
            heard.append(f"refused: {error}")

    thread = threading.Thread(target=wait)
    thread.start()
    return thread, heard


def taken(desk: Desk) -> requests.Request:
    now = 0.0
    for _ in range(int(SOON_S / 0.02)):
        now += LOOK_S
        request = desk.look(now)
        if request is not None:
            return request
        threading.Event().wait(0.02)
    raise AssertionError("no request arrived")


@pytest.mark.parametrize(("outcome", "expected"), [("done", "/a/path"), ("failed", "refused: ")])
def test_a_request_is_taken_and_answered(outcome: str, expected: str) -> None:
    desk = Desk({})
    thread, heard = asked(os.getpid())
    request = taken(desk)
    assert request.steps == 2
    assert desk.look(1e9) is None, "once"
    desk.answer(request, outcome, "/a/path")
    desk.close()
    thread.join(SOON_S)
    assert heard[0].startswith(expected)
    assert heard[0].endswith("/a/path")


def test_the_end_of_the_run_is_heard() -> None:
    desk = Desk({})
    thread, heard = asked(os.getpid())
    taken(desk)
    desk.close()
    thread.join(SOON_S)
    assert heard == [f"refused: the run of process {os.getpid()} has ended"]


def test_a_process_that_takes_no_requests_is_told_at_once() -> None:
    with pytest.raises(ProfileError, match="has no run that could be profiled"):
        ask(os.getpid(), 1, SOON_S)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    Desk({}, gone.pid)
    gone.wait()
    with pytest.raises(ProfileError, match="has no run that could be profiled"):
        ask(gone.pid, 1, SOON_S)


def test_no_answer_in_time_takes_the_request_back() -> None:
    desk = Desk({})
    with pytest.raises(ProfileError, match="do its steps go on"):
        ask(os.getpid(), 1, 0.3)
    assert desk.look(1e9) is None


def test_a_look_costs_little_and_is_not_taken_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk({})
    desk.look(100.0)
    monkeypatch.setattr(Path, "lstat", lambda self: pytest.fail("looked too soon"))
    assert desk.look(100.0 + LOOK_S / 2) is None


@pytest.mark.parametrize(
    "content",
    ["", "no JSON", "[]", '{"steps": "many", "name": "x"}', '{"steps": -1, "name": "x"}', "x" * 5000],
)
def test_what_is_no_request_is_refused_and_removed(content: str) -> None:
    desk = Desk({})
    path = folder_of(os.getuid()) / f"{os.getpid()}.request"
    path.write_text(content)
    with pytest.raises(ProfileError, match="was no request"):
        desk.look(0.0)
    assert not path.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    desk = Desk({})
    other = tmp_path / "other"
    other.write_text('{"steps": 1, "name": "x"}')
    (folder_of(os.getuid()) / f"{os.getpid()}.request").symlink_to(other)
    with pytest.raises(ProfileError, match="was no request"):
        desk.look(0.0)
    assert other.exists()


def test_a_folder_that_others_can_write_to_is_refused() -> None:
    folder_of(os.getuid()).mkdir()
    folder_of(os.getuid()).chmod(0o777)
    with pytest.raises(ProfileError, match="can write to"):
        Desk({})


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder_of(os.getuid()).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProfileError, match="can write to"):
        Desk({})
