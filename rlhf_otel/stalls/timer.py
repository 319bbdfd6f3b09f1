"""The one timer of ``faulthandler``: writes the stacks of all threads when it is over, also while the GIL is held.

It waits on a thread of C that needs no interpreter. A process has one such timer, and nobody can ask whose it is:
while a run is watched with ``stall_stacks`` on, it is ours.

A child that is forked while it is armed would wait for that thread, which it does not have, for ever, as soon as it
arms the timer itself or ends in the usual way. So it is disarmed before each fork.
"""

from __future__ import annotations

import faulthandler
import os
import threading

_lock = threading.Lock()
_armed = False


def arm(seconds: float, descriptor: int) -> None:
    """Write the stacks to ``descriptor`` in ``seconds`` unless this is called again before: 30 microseconds."""
    global _armed
    with _lock:
        faulthandler.dump_traceback_later(seconds, repeat=False, file=descriptor, exit=False)
        _armed = True


def disarm() -> None:
    """Write nothing. A timer that somebody else has set since is theirs, and gone as well."""
    with _lock:
        _cancel()


def _cancel() -> None:
    global _armed
    if _armed:
        _armed = False
        faulthandler.cancel_dump_traceback_later()


def _before_fork() -> None:
    _lock.acquire()  # until the child is there nobody arms it
    _cancel()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=lambda: _lock.release(), after_in_child=_in_child
    )
