"""A reward function that tells a watcher what it returned, how long it took, and that it raised."""

from __future__ import annotations

import functools
import inspect
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from rlhf_otel import faults
from rlhf_otel.reward_model import random_state
from rlhf_otel.sources.reward_functions import Observed

RESCORED: Final = 8
"""Completions of a call that are scored again, at most."""

Function = Callable[..., Any]


class Watcher(Protocol):
    """Who is told."""

    def observe(
        self, name: str, scores: Sequence[Any], completions: Sequence[Any], seconds: float
    ) -> None: ...
    def failed(self, name: str, error: BaseException) -> None: ...
    def rescored(self, name: str, first: Sequence[Any], second: Sequence[Any]) -> None: ...


def watched(function: Any, name: str, rescore_every: int, watcher: Watcher) -> Function:
    """``function``, sync or async; it keeps its name, signature and results, and pickles as itself."""
    wrapper = _Wrapper(function, name, rescore_every, watcher)
    asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )
    return Observed(functools.wraps(function)(wrapper.in_turn() if asynchronous else wrapper.at_once()))


class _Wrapper:
    def __init__(self, function: Any, name: str, rescore_every: int, watcher: Watcher) -> None:
        self._function = function
        self._name = name
        self._rescore_every = rescore_every
        self._watcher = watcher
        self._calls = itertools.count()

    def at_once(self) -> Function:
        function = self._function

        def watching(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                scores = function(*args, **kwargs)
            except Exception as error:
                self._watcher.failed(self._name, error)
                raise
            self._returned(scores, kwargs, time.perf_counter() - started)
            if self._rescore_every and next(self._calls) % self._rescore_every == 0:
                self._rescore(scores, args, kwargs)
            return scores

        return watching

    def in_turn(self) -> Function:
        function = self._function

        async def watching(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                scores = await function(*args, **kwargs)
            except Exception as error:
                self._watcher.failed(self._name, error)
                raise
            self._returned(scores, kwargs, time.perf_counter() - started)
            return scores

        return watching

    def _returned(self, scores: Any, kwargs: Mapping[str, Any], seconds: float) -> None:
        with faults.isolated("sources", f"watching what {self._name!r} returned"):
            if not _can_be_read_twice(scores):
                return
            completions = kwargs.get("completions") or ()
            matching = completions if len(completions) == len(scores) else ()
            self._watcher.observe(self._name, scores, matching, seconds)

    def _rescore(self, scores: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        with faults.isolated("sources", f"scoring completions of {self._name!r} again"), random_state.kept():
            few, named = first_few(args, kwargs)
            again = self._function(*few, **named)
            if _can_be_read_twice(scores) and _can_be_read_twice(again):
                self._watcher.rescored(self._name, scores, again)


def first_few(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a reward function, cut to its first :data:`RESCORED` completions: TRL passes lists of one length."""
    size = max((len(value) for value in [*args, *kwargs.values()] if isinstance(value, list)), default=0)

    def cut(value: Any) -> Any:
        return value[:RESCORED] if isinstance(value, list) and len(value) == size else value

    return [cut(value) for value in args], {key: cut(value) for key, value in kwargs.items()}


def _can_be_read_twice(scores: Any) -> bool:
    """A list, tuple, tensor or array, and no generator, of which nothing would be left for the trainer."""
    return isinstance(scores, list | tuple) or (hasattr(scores, "tolist") and hasattr(scores, "__len__"))
