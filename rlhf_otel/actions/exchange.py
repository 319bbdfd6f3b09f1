"""An exchange with the c10d store that the training thread waits for, though never longer than :data:`LIMIT_S`.

Its outcome is needed before the step goes on, so that it can't be left to the background; but a store whose server
does not answer must not stop a training that needs the store no longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Generic, TypeVar

LIMIT_S: Final = 2.0
"""Upper bound for one wait, in seconds; an answer takes less than a millisecond in one data centre."""

_T = TypeVar("_T")


class Exchange:
    """Runs one call at a time on a thread of its own."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._unanswered: threading.Event | None = None

    def __call__(self, function: Callable[[], _T]) -> _T:
        """What ``function`` returns or raises. Raises TimeoutError after ``limit_s``; and at once, without calling,
        while an earlier call has still not returned."""
        if self._unanswered is not None and not self._unanswered.is_set():
            raise TimeoutError("the job's store has still not answered an earlier question")
        call = _Call(function)
        threading.Thread(target=call.run, name="rlhf_otel-exchange", daemon=True).start()
        self._unanswered = call.done
        if not call.done.wait(self._limit_s):
            raise TimeoutError(f"the job's store did not answer within {self._limit_s:g} s")
        return call.outcome()


class _Call(Generic[_T]):
    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self._results: list[_T] = []
        self._error: BaseException | None = None
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._error = error
        finally:
            self.done.set()

    def outcome(self) -> _T:
        if self._error is not None:
            raise self._error
        return self._results[0]
