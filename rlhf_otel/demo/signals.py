"""SIGTERM and SIGHUP end the demo as Ctrl-C does: what it started is stopped on the way out."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows knows no SIGHUP


@contextlib.contextmanager
def ending_by_signals() -> Iterator[None]:
    """Raise SystemExit(128 + number) in the main thread on the first of these signals, ignoring those after it.

    Signals that are ignored already, as under nohup, stay so; off the main thread nothing can be arranged.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in taken:
            signal.signal(number, _end)
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _end(number: int, frame: FrameType | None) -> None:
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the cleaning up short
    raise SystemExit(128 + number)
