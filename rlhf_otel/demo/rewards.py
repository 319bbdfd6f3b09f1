"""Three reward functions with TRL's plain signature.

They are graded rather than right-or-wrong, so that the completions of a group seldom score alike: a group in
which all score alike has no advantage, and teaches nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from rlhf_otel.demo.language import NUMBERS

RewardFunction = Callable[..., list[float]]

_NUMBERS: Final = frozenset(NUMBERS)


def correctness(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Share of the numbers that stand in their place, fillers aside."""
    return [_in_place(words, right) for words, right in _words(completions, answer)]


def format(completions: list[str], **_: Any) -> list[float]:  # noqa: A001 - the name that boards show
    """Share of the words that are numbers; an empty completion has no format."""
    return [_share_of_numbers(text.split()) for text in completions]


def brevity(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """One for a completion no longer than the answer, falling to zero at twice its length."""
    return [_thrift(len(words), len(right)) for words, right in _words(completions, answer)]


REWARD_FUNCTIONS: Final[tuple[RewardFunction, ...]] = (correctness, format, brevity)
REWARD_WEIGHTS: Final = (0.8, 0.1, 0.1)
"""They add up to one, so the reward lies between 0 and 1; an empty completion earns the last tenth alone."""


def _words(completions: list[str], answers: list[str]) -> Iterator[tuple[list[str], list[str]]]:
    for completion, answer in zip(completions, answers, strict=True):
        yield completion.split(), answer.split()


def _in_place(words: list[str], right: list[str]) -> float:
    numbers = [word for word in words if word in _NUMBERS]
    hits = sum(given == wanted for given, wanted in zip(numbers, right, strict=False))
    return hits / max(len(numbers), len(right))


def _share_of_numbers(words: list[str]) -> float:
    return sum(word in _NUMBERS for word in words) / len(words) if words else 0.0


def _thrift(length: int, wanted: int) -> float:
    return min(1.0, max(0.0, 2.0 - length / wanted))
