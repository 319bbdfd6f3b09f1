"""Reading files that are still growing."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlhf_otel.errors import ReplayError

INTERVAL_S: Final = 1.0
"""Pause between two looks at a file."""


class LogReplacedError(ReplayError):
    """A followed file was replaced by one that does not begin like it: another run."""


@dataclass(slots=True)
class Following:
    """How readers wait for more; the end comes when :attr:`stop` is set, or after ``idle_s`` without news."""

    interval_s: float = INTERVAL_S
    stop: threading.Event = field(default_factory=threading.Event)
    idle_s: float | None = None
    _news: float = field(default_factory=time.monotonic)

    def news(self) -> None:
        """Something came."""
        self._news = time.monotonic()

    def wait(self) -> bool:
        """Pause; False when it is time to stop."""
        if self.idle_s is not None and time.monotonic() - self._news > self.idle_s:
            self.stop.set()
        return not self.stop.wait(self.interval_s)


def lines(path: Path, following: Following | None) -> Iterator[bytes]:
    """The lines of a file and, when following, those still to come, each with its line end.

    A last line without one is torn: it comes at the end when not following, else once it is whole. A file
    that was rewritten (truncated, or replaced under its name) goes on after the lines already read if it
    begins with them, else LogReplacedError is raised.
    """
    if following is None:
        with path.open("rb") as file:
            yield from file
        return
    digest = hashlib.blake2b()
    count = 0
    while not following.stop.is_set():
        for line in _fresh(path, count, digest, following):
            digest.update(line)
            count += 1
            yield line


def _fresh(path: Path, count: int, digest: hashlib.blake2b, following: Following) -> Iterator[bytes]:
    """Lines after the first ``count``, until the file is rewritten."""
    with path.open("rb") as file:
        _skip(path, file.readline, count, digest)
        inode = path.stat().st_ino
        pending = b""
        while True:
            pending += file.readline()
            if pending.endswith(b"\n"):
                yield pending
                pending = b""
                continue
            if not following.wait() or _rewritten(path, inode, file.tell()):
                return


def _skip(path: Path, readline: Callable[[], bytes], count: int, digest: hashlib.blake2b) -> None:
    again = hashlib.blake2b()
    for _ in range(count):
        again.update(readline())
    if again.digest() != digest.digest():
        raise LogReplacedError(f"{path} was replaced by another log")


def _rewritten(path: Path, inode: int, offset: int) -> bool:
    try:
        now = path.stat()
    except OSError:  # between the removal and the renaming of a rewrite
        return False
    return now.st_ino != inode or now.st_size < offset
