"""How one process asks another for a profile: by small files in a folder that only their user can write to.

A process that can be profiled says so in ``PID.json``; whoever wants a profile leaves ``PID.request``, which the process
looks for when a step has ended, and finds in ``PID.answer`` what came of it. A file asks nothing of a process that
does not know of it, where a signal would kill it.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel.errors import ProfileError

LOOK_S: Final = 0.5
"""Seconds between two looks for a request."""
MAX_BYTES: Final = 4096


class Request(NamedTuple):
    """What somebody asks for."""

    name: str
    """By which its answer is known."""
    steps: int


def folder_of(user: int) -> Path:
    """The folder of a user's requests on this machine."""
    return Path(tempfile.gettempdir()) / f"rlhf_otel-{user}"


def private(folder: Path, user: int) -> Path:
    """``folder``, made if it is not there. Raises ProfileError where others could write to it."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        raise ProfileError(f"{folder} is not a directory that only user {user} can write to")
    return folder


class Desk:
    """Where a process takes requests. Used on one thread."""

    def __init__(self, said: dict[str, Any], pid: int | None = None) -> None:
        """``said`` is for those who ask. Raises ProfileError or OSError where requests cannot be taken."""
        user = os.getuid()
        base = private(folder_of(user), user) / str(pid or os.getpid())
        self._known, self._asked = base.with_suffix(".json"), base.with_suffix(".request")
        self._answered = base.with_suffix(".answer")
        self._users = (user, 0)
        self._look_at = 0.0
        self._asked.unlink(missing_ok=True)  # a process of this number before us
        _write(self._known, said)

    def look(self, now_s: float) -> Request | None:
        """A request that has arrived; ``now_s`` is of any clock that does not go back.

        Raises:
            ProfileError: what has arrived is none.
        """
        if now_s < self._look_at:
            return None
        self._look_at = now_s + LOOK_S
        try:
            found = self._asked.lstat()
        except FileNotFoundError:
            return None
        said: dict[str, Any] = {}
        if stat.S_ISREG(found.st_mode) and found.st_uid in self._users and found.st_size <= MAX_BYTES:
            said = _read(self._asked)
        self._asked.unlink(missing_ok=True)
        steps, name = said.get("steps"), said.get("name")
        if not isinstance(steps, int) or not isinstance(name, str) or steps < 1:
            raise ProfileError(f"{self._asked} was no request for a profile")
        return Request(name, steps)

    def answer(self, request: Request, outcome: str, detail: str) -> None:
        """Say what came of a request."""
        _write(self._answered, {"name": request.name, "outcome": outcome, "detail": detail})

    def close(self) -> None:
        """Take no more requests; an answer stays for who waits for it."""
        self._known.unlink(missing_ok=True)
        self._asked.unlink(missing_ok=True)


def ask(pid: int, steps: int, timeout_s: float) -> str:
    """Ask process ``pid`` to profile its next steps, and wait; returns the path of the profile.

    Raises:
        ProfileError: it takes no requests, has ended, has refused, or did not answer in time.
    """
    base = folder_of(_user_of(pid)) / str(pid)
    known, answered = base.with_suffix(".json"), base.with_suffix(".answer")
    if not known.exists() or not _lives(pid):
        raise ProfileError(
            f"process {pid} has no run that could be profiled: it has not begun or is over, does not use rlhf_otel, or has "
            f"another TMPDIR or container (looked for {known})"
        )
    request = Request(uuid.uuid4().hex, steps)
    _write(base.with_suffix(".request"), request._asdict())
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        over = not known.exists()  # asked first: what it answers at its end is there by then
        answer = _read(answered)
        if answer.get("name") == request.name:
            answered.unlink(missing_ok=True)
            if answer["outcome"] != "done":
                raise ProfileError(f"process {pid} has made no profile: {answer['detail']}")
            return str(answer["detail"])
        if over or not _lives(pid):
            raise ProfileError(f"the run of process {pid} has ended")
        time.sleep(0.1)
    base.with_suffix(".request").unlink(missing_ok=True)
    raise ProfileError(f"process {pid} has made no profile within {timeout_s:.0f} s; do its steps go on?")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _user_of(pid: int) -> int:
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return os.getuid()


def _write(path: Path, said: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(said), encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        said = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(said, dict):
            return said
    return {}
