"""Stacks of all threads: as text, and in a file that keeps the latest of them.

They hold the names of files, functions and threads, and line numbers; no arguments, no variables, no source.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

MAX_THREADS: Final = 100
MAX_FRAMES: Final = 100
"""Both as ``faulthandler`` has them."""
MAX_BYTES: Final = 2**20
"""Size of the file, above which it loses its older half."""
STACK: Final = b"(most recent call first):"
"""How a stack begins."""


def stacks_of_all_threads(training_thread: int | None = None) -> str:
    """The present Python stacks, that of the training thread first, without that of the thread that asks.

    In the form of ``faulthandler``, which tools for crashes read, with the threads' names.
    """
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames.pop(threading.get_ident(), None)
    idents = sorted(frames, key=lambda ident: ident != training_thread)
    parts = []
    for ident in idents[:MAX_THREADS]:
        who = f' "{_printable(names[ident])}"' if ident in names else ""
        who += ", which trains" if ident == training_thread else ""
        parts.append(
            f"Thread {named(ident)}{who} (most recent call first):\n{''.join(_lines(frames[ident]))}"
        )
    if len(idents) > MAX_THREADS:
        parts.append(f"... and {len(idents) - MAX_THREADS} more threads\n")
    return "\n".join(parts)


def named(ident: int) -> str:
    """A thread as ``faulthandler`` names it."""
    return f"0x{ident:016x}"


def _lines(frame: FrameType | None) -> Iterator[str]:
    for _ in range(MAX_FRAMES):
        if frame is None:
            return
        code = frame.f_code
        yield f'  File "{_printable(code.co_filename)}", line {frame.f_lineno} in {_printable(code.co_qualname)}\n'
        frame = frame.f_back
    yield "  ...\n"


def _printable(text: str) -> str:
    """On one line, and encodable."""
    return text if text.isprintable() else ascii(text)[1:-1]


class StackFile:
    """The stacks of one rank's stalls, the newest last; earlier attempts' stay. For one thread.

    What is appended by ``faulthandler``, through :attr:`descriptor`, is seen by :meth:`appended`.
    """

    def __init__(self, path: Path | None, head: str) -> None:
        """``head`` is a line that is written before anything of this process; without a path the file has no name,
        and goes with the process. Raises OSError."""
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
            self.descriptor = os.open(path, flags, 0o644)
        else:
            with tempfile.TemporaryFile() as unnamed:
                self.descriptor = os.dup(unnamed.fileno())
        self._seen = 0
        self.append(head)

    def append(self, text: str) -> None:
        """Raises OSError."""
        self._shorten()
        os.write(self.descriptor, text.encode(errors="backslashreplace"))
        self._seen = os.fstat(self.descriptor).st_size

    def has_grown(self) -> bool:
        """Whether somebody else has appended something. Raises OSError."""
        return os.fstat(self.descriptor).st_size > self._seen

    def appended(self) -> str:
        """What somebody else has appended since the last call. Raises OSError."""
        size = os.fstat(self.descriptor).st_size
        found = os.pread(self.descriptor, size - self._seen, self._seen).decode(errors="replace")
        self._seen = size
        return found

    def close(self) -> None:
        """No stacks will follow; where there are none, the file goes. Raises OSError."""
        try:
            if self.path is not None and STACK not in os.pread(self.descriptor, 2 * MAX_BYTES, 0):
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self.descriptor)

    def _shorten(self) -> None:
        size = os.fstat(self.descriptor).st_size
        if size > MAX_BYTES:
            kept = os.pread(self.descriptor, MAX_BYTES // 2, size - MAX_BYTES // 2)
            os.ftruncate(self.descriptor, 0)
            os.write(self.descriptor, kept[kept.find(b"\n") + 1 :])
