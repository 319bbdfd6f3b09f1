"""Wrappers around functions of an instance or a module, taken away again in reverse order."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rlhf_otel.sources.phases import PhaseRecorder

Function = Callable[..., Any]


class Wrappers:
    """What was wrapped, and how to undo it."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, name: str, make: Callable[[Function], Function]) -> None:
        """Replace ``owner.name`` by what ``make`` makes of it; nothing where ``owner`` lacks it."""
        original = getattr(owner, name, None)
        if original is None:
            return
        before = vars(owner).get(name)
        wrapper = functools.wraps(original)(make(original))
        setattr(owner, name, wrapper)

        def undo() -> None:
            if vars(owner).get(name) is not wrapper:
                return  # somebody wrapped it after us: theirs stays
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)

        self._undo.append(undo)

    def add(self, undo: Callable[[], None]) -> None:
        """Note how to undo something else."""
        self._undo.append(undo)

    def restore(self) -> None:
        """Put everything back as it was. Harmless when called again."""
        while self._undo:
            self._undo.pop()()


def timed(recorder: PhaseRecorder, phase: str, original: Function, detail: str = "") -> Function:
    """``original``, as a phase."""

    begin, end = recorder.begin, recorder.end

    def in_phase(*args: Any, **kwargs: Any) -> Any:
        opened = begin(phase, detail)
        try:
            result = original(*args, **kwargs)
        except BaseException:
            end(opened, True)
            raise
        end(opened)
        return result

    return in_phase
