"""Reward functions of every kind, observed where they return; None, NaN and exceptions are told apart."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.sources.reward_functions import RewardFunctionCounts

NAN, INF = math.nan, math.inf
MIXED = [1.0, None, NAN, INF, -INF, 0, None]


def plain(completions: list[str], scale: float = 1.0, **_: Any) -> Any:
    """Says something about lengths."""
    return ANSWERS.get(completions[0], [scale * len(text) for text in completions])


async def asynchronous(completions: list[str], **_: Any) -> Any:
    await asyncio.sleep(0)
    return plain(completions)


class Scorer:
    """Reward functions as methods and as an object."""

    def method(self, completions: list[str], **_: Any) -> Any:
        return plain(completions)

    @staticmethod
    def static(completions: list[str], **_: Any) -> Any:
        return plain(completions)

    @classmethod
    def of_class(cls, completions: list[str], **_: Any) -> Any:
        return plain(completions)

    def __call__(self, completions: list[str], **_: Any) -> Any:
        return plain(completions)


ANSWERS: dict[str, Any] = {"mixed": MIXED}

OBSERVED: dict[str, Callable[..., Any]] = {
    "function": plain,
    "lambda": lambda completions, **_: plain(completions),
    "partial": functools.partial(plain, scale=1.0),
    "partial of a partial": functools.partial(functools.partial(plain), scale=1.0),
    "method": Scorer().method,
    "static": Scorer.static,
    "class method": Scorer.of_class,
    "async": asynchronous,
    "async partial": functools.partial(asynchronous),
}
PICKLES = {name: found for name, found in OBSERVED.items() if name != "lambda"}

every_kind = pytest.mark.parametrize("function", OBSERVED.values(), ids=OBSERVED)


def called(function: Any, completions: list[str]) -> Any:
    found = function(completions=completions)
    return asyncio.run(found) if inspect.isawaitable(found) else found


def counts(of: RewardFunctionCounts, name: str = "f") -> tuple[int, int, int]:
    return of.none[name], of.nonfinite[name], of.errors[name]


@every_kind
def test_an_observed_function_returns_what_it_did(function: Any) -> None:
    wrapped = RewardFunctionCounts().wrap(function, "f")
    assert called(wrapped, ["a", "bcd"]) == called(function, ["a", "bcd"]) == [1.0, 3.0]
    assert called(wrapped, ["mixed"]) is MIXED, "the very object"


@every_kind
def test_none_and_not_finite_are_told_apart(function: Any) -> None:
    of = RewardFunctionCounts()
    wrapped = of.wrap(function, "f")
    called(wrapped, ["sound"])
    assert counts(of) == (0, 0, 0)
    called(wrapped, ["mixed"])
    assert counts(of) == (2, 3, 0)


@pytest.mark.parametrize(
    "odd",
    [[np.zeros(2), np.zeros(3)], ["a", "b"], [[1.0], [2.0]], [object()]],
    ids=["shapes", "texts", "lists", "objects"],
)
def test_what_has_no_sum_is_passed_on(odd: list[Any]) -> None:
    wrapped = RewardFunctionCounts().wrap(lambda completions: odd, "f")
    assert wrapped(completions=["a", "b"]) is odd


def test_errors_are_taken_once() -> None:
    of = RewardFunctionCounts()

    def broken(completions: list[str]) -> list[float]:
        raise ConnectionError

    wrapped = of.wrap(broken, "judge")
    of.wrap(plain, "sound")(completions=["a"])
    for _ in range(2):
        with pytest.raises(ConnectionError):
            wrapped(completions=["a"])
    assert of.take_errors() == {"judge": 2}
    assert of.take_errors() == {}
    assert of.errors["judge"] == 2


@every_kind
def test_an_observed_function_looks_as_it_did(function: Any) -> None:
    wrapped = RewardFunctionCounts().wrap(function, "f")
    assert inspect.iscoroutinefunction(wrapped) == inspect.iscoroutinefunction(function)
    assert asyncio.iscoroutinefunction(wrapped) == asyncio.iscoroutinefunction(function)
    assert inspect.signature(wrapped) == inspect.signature(function)
    assert getattr(wrapped, "__name__", None) == getattr(function, "__name__", None)
    assert inspect.getdoc(getattr(wrapped, "__wrapped__", wrapped)) == inspect.getdoc(function)
    assert callable(wrapped)


@pytest.mark.parametrize("function", PICKLES.values(), ids=PICKLES)
def test_an_observed_function_pickles_as_itself(function: Any) -> None:
    """Async GRPO hands its reward functions to a process that it spawns."""
    of = RewardFunctionCounts()
    again = pickle.loads(pickle.dumps(of.wrap(function, "f")))
    assert called(again, ["mixed"]) == MIXED
    assert counts(of) == (0, 0, 0), "another process counts for itself"


@pytest.mark.parametrize("asynchronously", [False, True])
@pytest.mark.parametrize("error", [ValueError("no"), ZeroDivisionError(), MemoryError()], ids=repr)
def test_an_exception_passes_and_counts(error: Exception, asynchronously: bool) -> None:
    def fails(completions: list[str]) -> None:
        raise error

    async def fails_async(completions: list[str]) -> None:
        raise error

    of = RewardFunctionCounts()
    wrapped = of.wrap(fails_async if asynchronously else fails, "f")
    with pytest.raises(type(error)) as raised:
        called(wrapped, ["a"])
    assert raised.value is error
    assert counts(of) == (0, 0, 1)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_no_error_of_the_function(stop: type[BaseException]) -> None:
    def interrupted(completions: list[str]) -> None:
        raise stop

    of = RewardFunctionCounts()
    with pytest.raises(stop):
        of.wrap(interrupted, "f")(["a"])
    assert counts(of) == (0, 0, 0)


def test_a_cancelled_one_is_no_error_of_the_function() -> None:
    async def cancelled(completions: list[str]) -> None:
        raise asyncio.CancelledError

    of = RewardFunctionCounts()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(of.wrap(cancelled, "f")(["a"]))
    assert counts(of) == (0, 0, 0)


# What a function may return


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([], (0, 0)),
        ([1, 2, 3], (0, 0)),
        ([True, False], (0, 0)),
        ([1e308, 1e308], (0, 0)),
        ([INF, -INF], (0, 2)),
        ([None, None], (2, 0)),
        ((1.0, None), (1, 0)),
        (np.array([1.0, NAN]), (0, 1)),
        (np.array([1.0, None], dtype=object), (1, 0)),
        ([np.float32("nan"), np.float64(1)], (0, 1)),
        (torch.tensor([1.0, NAN, INF]), (0, 2)),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), (0, 0)),
        ([torch.tensor(1.0), torch.tensor(NAN)], (0, 1)),
        ([torch.tensor(1.0), None], (1, 0)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_rewards_of_all_kinds_are_counted(rewards: Any, expected: tuple[int, int]) -> None:
    of = RewardFunctionCounts()
    assert of.wrap(lambda completions: rewards, "f")(["a"]) is rewards
    assert counts(of)[:2] == expected
    assert not faults.total()


@pytest.mark.parametrize(
    "rewards",
    [
        None, 1.0, "text", {"a": 1.0}, object(), ["a", "b"], [[1.0], [None]], [object()], [1j], [10**400],
        torch.empty(2, device="meta"), [torch.empty((), device="meta")], [torch.tensor([1.0, NAN])],
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_odd_rewards_are_the_trainer_s_problem_not_ours(rewards: Any) -> None:
    of = RewardFunctionCounts()
    assert of.wrap(lambda completions: rewards, "f")(["a"]) is rewards
    assert not faults.total()


def test_what_can_be_read_only_once_is_left_to_the_trainer() -> None:
    of = RewardFunctionCounts()
    rewards = of.wrap(lambda completions: (1.0 for _ in range(3)), "f")(["a"])
    assert list(rewards) == [1.0, 1.0, 1.0]


@given(st.lists(st.none() | st.floats() | st.integers(), max_size=30))
def test_each_reward_counts_once(rewards: list[Any]) -> None:
    of = RewardFunctionCounts()
    of.wrap(lambda completions: rewards, "f")([])
    none = sum(reward is None for reward in rewards)
    broken = sum(reward is not None and not math.isfinite(reward) for reward in rewards)
    assert counts(of) == (none, broken, 0)
    assert of.take_nonfinite() == ({"f": broken} if broken else {})
    assert of.take_nonfinite() == {}


def test_functions_are_counted_by_name() -> None:
    of = RewardFunctionCounts()
    good, bad = of.wrap(lambda completions: [1.0], "good"), of.wrap(lambda completions: [NAN], "bad")
    good(["a"])
    bad(["a"])
    bad(["a"])
    assert (counts(of, "good"), counts(of, "bad")) == ((0, 0, 0), (0, 2, 0))
    assert of.take_nonfinite() == {"bad": 2}


@pytest.mark.parametrize(
    "odd", [Scorer(), torch.nn.Linear(1, 1), "org/model", None], ids=lambda odd: type(odd).__name__
)
def test_models_and_odd_callables_stay_as_they_are(odd: Any) -> None:
    of = RewardFunctionCounts()
    assert of.wrap(odd, "f") is odd
    assert counts(of) == (0, 0, 0), "their series are there from the start"
