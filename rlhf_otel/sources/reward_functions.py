"""Reward functions, observed where they return: None, NaN and exceptions are three different things.

TRL turns None ("this function does not apply") into NaN and leaves NaN out of sums, so that a function that
fails with NaN vanishes from the reward. Only the function's own return value tells the two apart.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

from rlhf_otel import faults
from rlhf_otel.sources.trl_logs import as_number


class RewardFunctionCounts:
    """What reward functions returned, by name."""

    def __init__(self) -> None:
        self.none: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.nonfinite: dict[str, int] = {}
        self.fresh_nonfinite: dict[str, int] = {}
        """NaN or infinite rewards since :meth:`take_nonfinite`, by function; only functions that returned some."""
        self.fresh_errors: dict[str, int] = {}
        """Calls that raised since :meth:`take_errors`, by function; only functions that did."""

    def take_nonfinite(self) -> dict[str, int]:
        """Take :attr:`fresh_nonfinite`."""
        fresh, self.fresh_nonfinite = self.fresh_nonfinite, {}
        return fresh

    def take_errors(self) -> dict[str, int]:
        """Take :attr:`fresh_errors`."""
        fresh, self.fresh_errors = self.fresh_errors, {}
        return fresh

    def count(self, name: str, rewards: Sequence[Any]) -> None:
        """Look at what a function returned for a batch of completions."""
        none = nonfinite = 0
        for reward in rewards:
            if reward is None:
                none += 1
            elif (number := as_number(reward)) is not None and number - number != 0:  # NaN and infinity
                nonfinite += 1
        if none:
            self.none[name] += none
        if nonfinite:
            self.nonfinite[name] += nonfinite
            self.fresh_nonfinite[name] = self.fresh_nonfinite.get(name, 0) + nonfinite

    def observe(self, name: str, rewards: Any) -> None:
        """As :meth:`count`, never raising. What lies on a device, or can be read only once, is left alone."""
        try:
            on_cpu = getattr(getattr(rewards, "device", None), "type", "cpu") == "cpu"
            if on_cpu and hasattr(rewards, "tolist"):
                rewards = rewards.tolist()
            if isinstance(rewards, list | tuple):
                self.count(name, rewards)
        except Exception as error:  # noqa: BLE001 - faults logs it
            faults.handle("sources", error, f"counting what reward function {name!r} returned")

    def _raised(self, name: str) -> None:
        self.errors[name] += 1
        self.fresh_errors[name] = self.fresh_errors.get(name, 0) + 1

    def wrap(self, function: Any, name: str) -> Any:
        """``function``, observed: same name, signature and results. Models and odd callables are returned as
        they are."""
        self.none.setdefault(name, 0)
        self.errors.setdefault(name, 0)
        self.nonfinite.setdefault(name, 0)
        if not inspect.isroutine(function) and not isinstance(function, functools.partial):
            return function
        if inspect.iscoroutinefunction(function):
            return self._wrap_async(function, name)

        observe = self.observe

        def observed(*args: Any, **kwargs: Any) -> Any:
            try:
                rewards = function(*args, **kwargs)
            except Exception:
                self._raised(name)
                raise
            # Nearly always they are finite numbers, and then so is their sum: no closer look is needed.
            try:
                if type(rewards) is list:
                    total = sum(rewards, 0.0)
                    if type(total) is float and total - total == 0.0:
                        return rewards
            except Exception:  # noqa: BLE001, S110 - None, tensors of several devices, arrays of several shapes
                pass
            observe(name, rewards)
            return rewards

        return Observed(functools.wraps(function)(observed))

    def _wrap_async(self, function: Any, name: str) -> Any:
        async def observed(*args: Any, **kwargs: Any) -> Any:
            try:
                rewards = await function(*args, **kwargs)
            except Exception:
                self._raised(name)
                raise
            self.observe(name, rewards)
            return rewards

        return Observed(functools.wraps(function)(observed))


class Observed(functools.partial[Any]):
    """An observed function that pickles as the function itself, which a closure does not: a trainer may hand
    it to a process that it spawns. A partial, because everybody looks through these (``inspect`` for async)."""

    def __init__(self, observed: Any) -> None:
        """``observed`` has the function itself as ``__wrapped__``, as ``functools.wraps`` leaves it."""
        functools.update_wrapper(self, observed.__wrapped__)  # a partial has no name, and observed has one

    def __reduce__(self) -> Any:
        return _itself, (self.func.__wrapped__,)  # type: ignore[attr-defined]  # set by functools.wraps


def _itself(function: Any) -> Any:
    return function
