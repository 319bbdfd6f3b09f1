"""Telemetry faults: our own failures, isolated from training.

A fault is logged once per place with its traceback, counted for
``rlhf_telemetry_faults_total{place}``, and raised only while tests ask for it
(:func:`raise_faults`), so that a defect cannot hide behind its own isolation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final

from rlhf_otel.plain_text import OneLine

logger = logging.getLogger("rlhf_otel")
logger.addFilter(OneLine())

PLACES: Final = (
    "actions",
    "callback",
    "checkpoints",
    "detection",
    "endpoint",
    "exposition",
    "journal",
    "phases",
    "sources",
    "background",
    "system",
    "traces",
)
"""Where a fault can happen: the bounded values of the label ``place``."""

_lock = threading.RLock()  # a signal handler may interrupt its holder
_counts: dict[str, int] = dict.fromkeys(PLACES, 0)
_logged: set[tuple[str, str]] = set()
_raise = False


def record(place: str, error: BaseException, doing: str) -> None:
    """Count ``error`` under ``place``; log it with its traceback the first time that kind happens there."""
    if _counted(place, f"{type(error).__name__}: {doing}"):
        logger.warning(
            "telemetry fault while %s; training goes on, further faults of this kind are only counted",
            doing,
            exc_info=error,
        )


def note(place: str, sentence: str) -> None:
    """Count what went wrong and was got round, under ``place``; say it in ``sentence`` the first time."""
    if _counted(place, sentence):
        logger.warning("%s", sentence)


def _counted(place: str, kind: str) -> bool:
    """Count a fault; whether it is the first of its kind there."""
    with _lock:
        _counts[place] = _counts.get(place, 0) + 1
        first = (place, kind) not in _logged
        _logged.add((place, kind))
    return first


def isolated(place: str, doing: str) -> AbstractContextManager[None]:
    """Keep an exception of ours from reaching the caller. ``KeyboardInterrupt`` and ``SystemExit`` pass."""
    return _Isolated(place, doing)


class _Isolated:
    """A class and no generator, which takes three times as long: there are a dozen of them in every step."""

    __slots__ = ("_doing", "_place")

    def __init__(self, place: str, doing: str) -> None:
        self._place, self._doing = place, doing

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        handle(self._place, error, self._doing)
        return True


def handle(place: str, error: Exception, doing: str) -> None:
    """As :func:`isolated`, for an ``except`` clause on a hot path, where a context manager would cost too
    much."""
    record(place, error, doing)
    if _raise:
        raise error


def counts() -> dict[str, int]:
    """Faults so far in this process, by place."""
    with _lock:
        return dict(_counts)


def total() -> int:
    """All faults so far in this process."""
    return sum(_counts.values())


@contextlib.contextmanager
def raise_faults() -> Iterator[None]:
    """Let :func:`isolated` re-raise what it caught; for tests."""
    global _raise
    before, _raise = _raise, True
    try:
        yield
    finally:
        _raise = before


def reset() -> None:
    """Forget all faults; for tests."""
    with _lock:
        _counts.update(dict.fromkeys(PLACES, 0))
        _logged.clear()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)  # another thread of the parent may have held it
