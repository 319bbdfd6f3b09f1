"""SIGTERM during training: pre-emption, mostly, which is an interruption and no failure.

A handler of the user's is called once what is known of whole steps has been handed on: within 2 s, since it may need
the time to save. Whether it lets training go on shows when the next step ends; until then the run is announced as
interrupted. Without a handler the process stays until Prometheus has seen the interruption, for a bounded time, and then
dies of the signal; so it does when the run had failed just before.
"""

from __future__ import annotations

import signal
import threading
from typing import Any, Final

from rlhf_otel import faults, serving
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.run import Run

LINGER_S: Final = 20.0
"""Bound for Prometheus to see the end, unless ``linger_s`` is less: schedulers usually kill after 30 s."""


class Sigterm:
    """Observes SIGTERM for one run."""

    def __init__(self, run: Run, previous: Any) -> None:
        self._run = run
        self._previous = previous
        self._at_step: int | None = None

    @classmethod
    def install(cls, run: Run) -> Sigterm | None:
        """Chain to the present handler. None outside the main thread, where Python allows no handler."""
        if threading.current_thread() is not threading.main_thread():
            return None
        previous = signal.getsignal(signal.SIGTERM)
        if previous is None or previous is signal.SIG_IGN:
            return None
        handler = cls(run, previous)
        signal.signal(signal.SIGTERM, handler)
        return handler

    def uninstall(self) -> None:
        """Put the handler before us back, unless another took our place."""
        present: object = signal.getsignal(signal.SIGTERM)
        if present is self:
            signal.signal(signal.SIGTERM, self._previous)

    @property
    def is_last(self) -> bool:
        """Whether nobody else handles the signal: the process dies of it."""
        return not callable(self._previous)

    @property
    def received(self) -> bool:
        """Whether the signal has arrived."""
        return self._at_step is not None

    @property
    def taking_effect(self) -> bool:
        """Whether it has arrived and no step has ended since: what is raised now is its consequence."""
        return self._at_step == self._run.last_step

    def __call__(self, number: int, frame: Any) -> None:
        again = self.received
        self._at_step = self._run.last_step
        if callable(self._previous):
            with faults.isolated("callback", "announcing SIGTERM"):
                self._run.interrupt()
            self._previous(number, frame)
            return
        if not again:  # a second one has no patience
            with faults.isolated("callback", "ending the run at SIGTERM"):
                self._run.end(Outcome.INTERRUPTED, "SIGTERM")
                serving.wait(min(LINGER_S, self._run.settings.linger_s), scrapes_each=1)
                serving.retract()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
