"""Profiles of one run: who may ask for them, and where it is told that there is one."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.catalogue.actions import ActionOutcome
from rlhf_otel.errors import ProfileError
from rlhf_otel.exporters.journal_records import profile_record
from rlhf_otel.profiling.capture import Finish, Profiling
from rlhf_otel.profiling.requests import Desk, Request
from rlhf_otel.records import RunIdentity, StepRecord

logger = logging.getLogger("rlhf_otel")

SIGNALLED_STEPS: Final = 3
"""Steps of a profile that a signal has asked for."""


class RunProfiling:
    """Takes requests from other processes, from a signal and from actions."""

    def __init__(
        self,
        directory: Path,
        identity: Callable[[], RunIdentity],
        submit: Callable[..., object],
        note: Callable[[dict[str, Any]], object],
        signal_name: str = "off",
    ) -> None:
        """``submit`` runs a call on the background thread, ``note`` adds a record to the journal."""
        self._directory = directory / "profiles"
        self._identity = identity
        self._note = note
        self.capture = Profiling(self._directory, submit, identity().rank)
        """What the training thread asks after each step, without a detour."""
        self.at_step_end, self.close_capture = self.capture.at_step_end, self.capture.close
        self._desk: Desk | None = None
        self._signal = None if signal_name == "off" else signal.Signals[signal_name]
        self._previous: Any = None
        self._signalled = False
        self._closed = False

    def ask(self, steps: int, why: str, finish: Finish) -> None:
        """Any thread: profile the next steps, and tell ``finish`` what came of it."""
        self.capture.ask(steps, partial(self._finished, why, finish))

    # --- on the training thread

    def install_signal(self) -> None:
        """Chain to the present handler, in the main thread, where alone Python allows that."""
        if self._signal is None or threading.current_thread() is not threading.main_thread():
            return
        self._previous = signal.signal(self._signal, self._on_signal)

    def uninstall_signal(self) -> None:
        """Put the handler before us back, unless another took our place."""
        if self._signal is None or signal.getsignal(self._signal) != self._on_signal:
            return
        signal.signal(self._signal, signal.SIG_DFL if self._previous is None else self._previous)

    def _on_signal(self, number: int, frame: Any) -> None:
        self._signalled = True  # takes no lock: it may interrupt who holds it
        if callable(self._previous):
            self._previous(number, frame)

    # --- on the background thread

    def open(self) -> None:
        """Take requests from other processes from now on."""
        if self._closed:
            return
        with faults.isolated("actions", "opening the folder for requests of profiles"):
            identity = self._identity()
            said = {"run_id": identity.run_id, "rank": identity.rank, "profiles": str(self._directory)}
            try:
                self._desk = Desk(said)
            except (ProfileError, OSError) as error:
                faults.note("actions", f"no profile can be asked for by rlhf-otel profile: {error}")

    def observe(self, record: StepRecord) -> None:
        """A step has ended: see whether it was profiled, and whether anybody wants a profile."""
        record.profile = self.capture.path_of(record.step)
        if self._signalled:
            self._signalled = False
            self.ask(SIGNALLED_STEPS, "signal", _unheard)
        if self._desk is None:
            return
        try:
            request = self._desk.look(time.monotonic())
        except (ProfileError, OSError) as error:
            faults.note("actions", str(error))
            return
        if request is not None:
            self.ask(request.steps, "request", partial(self._answer, self._desk, request))

    def close(self) -> None:
        """Take no more requests."""
        self._closed = True
        desk, self._desk = self._desk, None
        if desk is not None:
            with faults.isolated("actions", "closing the folder for requests of profiles"):
                desk.close()

    @staticmethod
    def _answer(desk: Desk, request: Request, outcome: ActionOutcome, detail: str) -> None:
        with faults.isolated("actions", "answering a request for a profile"):
            desk.answer(request, outcome.value, detail)

    def _finished(self, why: str, finish: Finish, outcome: ActionOutcome, detail: str) -> None:
        self._note(profile_record(why, outcome, detail))
        logger.info("profile (%s): %s, %s", why, outcome, detail)
        finish(outcome, detail)


def _unheard(outcome: ActionOutcome, detail: str) -> None:
    """Who sent a signal hears nothing; the log and the journal say what came of it."""
