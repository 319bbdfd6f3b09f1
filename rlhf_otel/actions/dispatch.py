"""Which actions follow an anomaly: chosen on the background thread, carried out where they harm nobody.

Webhooks and functions have a thread and a bounded queue for each entry, so that one that hangs delays itself
alone. Saving and stopping are handed to :mod:`rlhf_otel.actions.steering`.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from rlhf_otel import faults
from rlhf_otel.action_settings import ActionSettings
from rlhf_otel.actions.steering import Steering
from rlhf_otel.actions.webhook import DeliveryError, Webhook, message_of
from rlhf_otel.background import Background
from rlhf_otel.catalogue.actions import ActionKind, ActionOutcome
from rlhf_otel.records import Anomaly, RunIdentity

logger = logging.getLogger("rlhf_otel")

MAX_QUEUED: Final = 100
"""Webhooks or calls of one entry that may wait."""

Finish = Callable[[ActionOutcome, str], None]
Tell = Callable[[Anomaly, ActionKind, ActionOutcome, str], None]
"""Told how an action turned out, from whichever thread carried it out."""


class Dispatch:
    """Answers anomalies with what the entries of the setting ``actions`` say."""

    def __init__(
        self,
        entries: Sequence[ActionSettings],
        *,
        identity: Callable[[], RunIdentity],
        steering: Steering,
        profile: Callable[[int, Finish], object],
        describe: Callable[[Anomaly], str],
        tell: Tell,
        secret: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity = identity
        self._steering = steering
        self._profile = profile
        self._describe = describe
        self._tell = tell
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._counts = {
            (kind.value, outcome.value): 0
            for kind in ActionKind
            for outcome in ActionOutcome
            if any(kind in entry.do for entry in entries)
        }
        self._answers = [_Answer(entry, clock, secret) for entry in entries]

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """Actions so far, by kind and outcome."""
        with self._lock:
            return self._counts.copy()

    def answer(self, anomaly: Anomaly) -> Anomaly:
        """Begin what is to be done about it; the anomaly, with the names of that. Background thread."""
        begun: dict[ActionKind, None] = {}
        for answer in self._answers:
            if not answer.concerns(anomaly):
                continue
            if not answer.ready(anomaly):
                for kind in answer.entry.do:
                    self._count(kind, ActionOutcome.SUPPRESSED)
                continue
            for kind in answer.entry.do:
                begun[kind] = None
                self._begin(answer, kind, anomaly)
        return replace(anomaly, actions=tuple(kind.value for kind in begun)) if begun else anomaly

    def close(self, timeout_s: float) -> None:
        """Hand on what is queued, within a bound; what is left then counts as dropped."""
        deadline = time.monotonic() + timeout_s
        workers = [answer.worker for answer in self._answers if answer.worker is not None]
        waiting = [worker for worker in workers if not worker.stop(0.0)]
        for worker in waiting:
            worker.stop(max(0.0, deadline - time.monotonic()))
        self._ending.set()
        for answer in self._answers:
            answer.drop("the run ended before its turn")

    # --- each kind

    def _begin(self, answer: _Answer, kind: ActionKind, anomaly: Anomaly) -> None:
        finish = partial(self._finished, anomaly, kind)
        entry = answer.entry
        if kind is ActionKind.LOG:
            logger.log(logging.getLevelNamesMapping()[entry.level.upper()], "%s", self._describe(anomaly))
            finish(ActionOutcome.DONE, "")
        elif kind is ActionKind.PROFILE:
            self._profile(entry.steps, finish)
        elif kind in (ActionKind.SAVE, ActionKind.STOP):
            finish(*self._steer(kind, anomaly))
        elif not answer.queue(partial(self._carry_out, answer, kind, anomaly), finish):
            finish(ActionOutcome.DROPPED, f"{MAX_QUEUED} are waiting already")

    def _steer(self, kind: ActionKind, anomaly: Anomaly) -> tuple[ActionOutcome, str]:
        if not self._steering.possible:
            return ActionOutcome.FAILED, "the ranks share no store over which they could agree"
        self._steering.ask(kind, f"{anomaly.rule} at step {anomaly.step}")
        return ActionOutcome.DONE, ""

    def _carry_out(self, answer: _Answer, kind: ActionKind, anomaly: Anomaly) -> tuple[ActionOutcome, str]:
        """On the entry's own thread."""
        try:
            if kind is ActionKind.WEBHOOK:
                answer.webhook.deliver(message_of(anomaly, self._identity()), self._ending)
            else:
                assert answer.entry.call is not None
                answer.entry.call(anomaly)
        except DeliveryError as error:
            faults.record("actions", error, f"sending a webhook to {answer.webhook.host}")
            return ActionOutcome.FAILED, str(error)
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.record("actions", error, f"answering an anomaly with a {kind}")
            return ActionOutcome.FAILED, f"{type(error).__name__}: {error}"
        return ActionOutcome.DONE, ""

    def _finished(self, anomaly: Anomaly, kind: ActionKind, outcome: ActionOutcome, detail: str) -> None:
        self._count(kind, outcome)
        self._tell(anomaly, kind, outcome, detail)

    def _count(self, kind: ActionKind, outcome: ActionOutcome) -> None:
        with self._lock:
            self._counts[kind.value, outcome.value] += 1


class _Answer:
    """One entry, with when it acted last."""

    def __init__(self, entry: ActionSettings, clock: Callable[[], float], secret: str) -> None:
        self.entry = entry
        self.worker: Background | None = None
        self._clock = clock
        self._acted: dict[str, float] = {}
        self._left = entry.limit
        self._waiting: dict[int, Finish] = {}
        self._serial = itertools.count()
        self.webhook = Webhook(entry.url or "", secret, entry.timeout_s, entry.retries, entry.hosts)

    def concerns(self, anomaly: Anomaly) -> bool:
        entry = self.entry
        return entry.rule in (None, anomaly.rule) and entry.severity in (None, anomaly.severity)

    def ready(self, anomaly: Anomaly) -> bool:
        """Whether it may act now; if so, that counts."""
        now, acted = self._clock(), self._acted.get(anomaly.rule)
        if self._left == 0 or (acted is not None and now - acted < self.entry.cool_down_s):
            return False
        self._left -= 1
        self._acted[anomaly.rule] = now
        return True

    def queue(self, job: Callable[[], tuple[ActionOutcome, str]], finish: Finish) -> bool:
        """Run ``job`` on the entry's thread and tell ``finish`` what came of it; False when too many wait."""
        if self.worker is None:
            self.worker = Background(MAX_QUEUED, name="rlhf_otel-action")
            self.worker.start()
        serial = next(self._serial)
        self._waiting[serial] = finish
        if self.worker.submit(self._run, serial, job):
            return True
        del self._waiting[serial]
        return False

    def drop(self, why: str) -> None:
        """Give up on what has not ended yet."""
        while self._waiting:
            _, finish = self._waiting.popitem()
            finish(ActionOutcome.DROPPED, why)

    def _run(self, serial: int, job: Callable[[], tuple[ActionOutcome, str]]) -> None:
        outcome = job()
        finish = self._waiting.pop(serial, None)
        if finish is not None:  # else given up on meanwhile
            finish(*outcome)
