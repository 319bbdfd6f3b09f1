"""Signals of single completions, from the buffers that the trainer has already gathered.

The texts stay in this process: only numbers leave it. Counting n-grams is bounded, since it runs beside the
training thread: by a sample of :data:`SAMPLED` completions, and by their last :data:`WORDS` words, where a
completion that has begun to repeat itself shows it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from math import isfinite
from typing import Any, Final

from rlhf_otel.records import Histogram
from rlhf_otel.sources.groups import Generation, correlation, is_dead, weighted_rewards
from rlhf_otel.sources.reward_range import RewardRange

SAMPLED: Final = 8
WORDS: Final = 96
BINS: Final = 10
"""Bins of a reward function's histogram, of equal width between its lowest and its highest reward."""


class Samples:
    """Works out the signals of a run's generations, in their order."""

    def __init__(self, masks_truncated: bool = False, rewards: RewardRange | None = None) -> None:
        """``masks_truncated``: whether the trainer leaves completions that were cut off out of the loss; ``rewards``:
        the range of an earlier attempt's rewards."""
        self._masks_truncated = masks_truncated
        self.rewards = rewards or RewardRange()

    def signals(
        self, generation: Generation, logged: Mapping[str, float], rewards: Sequence[float] | None = None
    ) -> dict[str, float]:
        """Signal name to value. ``logged`` are the signals that the trainer itself took of this generation,
        ``rewards`` its weighted rewards where they are known already."""
        if rewards is None:
            rewards = weighted_rewards(generation)
        texts = [text_of(completion) for completion in generation.completions]
        found = self._dead_groups(rewards, generation.group_size)
        found.update(_wording(texts))
        found.update(_length_bias(rewards, texts))
        masked = truncated_token_ratio(logged)
        if masked is not None:
            found["truncated_token_ratio"] = masked
            found["masked_token_ratio"] = masked if self._masks_truncated else 0.0
        return found

    @staticmethod
    def histograms(generation: Generation) -> dict[str, Histogram]:
        """Reward function to the histogram of its rewards; functions that scored nothing are absent."""
        found = {
            name: histogram(column)
            for name, column in zip(generation.names, generation.by_function, strict=False)
        }
        return {name: one for name, one in found.items() if one is not None}

    def _dead_groups(self, rewards: Sequence[float], size: int) -> dict[str, float]:
        """Tell groups that are all right from those that are all wrong: by the half of the range of rewards in which
        the one reward of the group lies."""
        self.rewards.observe(rewards)
        groups = [rewards[start : start + size] for start in range(0, len(rewards) - size + 1, size)]
        same = [group[0] for group in groups if isfinite(group[0]) and is_dead(group)]
        high = [self.rewards.is_high(reward) for reward in same]
        if not groups or None in high:
            return {}
        right = sum(map(bool, high))
        return {
            "groups_all_right": right / len(groups),
            "groups_all_wrong": (len(high) - right) / len(groups),
        }


def text_of(completion: Any) -> str:
    """A completion as text: as it is, or the contents of its messages."""
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list | tuple):
        return " ".join(text_of(part) for part in completion)
    if isinstance(completion, Mapping):
        return text_of(completion.get("content") or completion.get("text") or "")
    return ""


def _wording(texts: Sequence[str]) -> dict[str, float]:
    if not texts:
        return {}
    found = {"empty_completion_ratio": sum(not text or text.isspace() for text in texts) / len(texts)}
    step = max(1, len(texts) // SAMPLED)
    words = [text[-WORDS * 16 :].split()[-WORDS:] for text in texts[::step][:SAMPLED]]
    repeated = [ratio for ratio in map(repetition, words) if ratio is not None]
    if repeated:
        found["repetition_ratio"] = sum(repeated) / len(repeated)
    pairs = list(chain.from_iterable(map(pairwise, words)))
    if pairs:
        found["distinct_2"] = len(set(pairs)) / len(pairs)
    return found


def repetition(words: Sequence[str]) -> float | None:
    """Share of a completion's sequences of four words (seq-rep-4 of Welleck et al., arXiv:1908.04319) that occur earlier in
    it; None where it has too few."""
    sequences = len(words) - 3
    if sequences <= 0:
        return None
    return 1 - len(set(zip(words, words[1:], words[2:], words[3:], strict=False))) / sequences


def _length_bias(rewards: Sequence[float], texts: Sequence[str]) -> dict[str, float]:
    found = correlation(rewards, list(map(len, texts)), fewest=2)
    return {} if found is None else {"reward_length_correlation": found}


def truncated_token_ratio(logged: Mapping[str, float]) -> float | None:
    """Share of completion tokens that belong to completions which were cut off, from the trainer's means."""
    length, cut_off = logged.get("completion_length"), logged.get("truncated_ratio")
    terminated = logged.get("terminated_length", 0.0)
    if not length or cut_off is None or not isfinite(length * cut_off * terminated):
        return None
    return min(1.0, max(0.0, 1 - terminated * (1 - cut_off) / length))


def histogram(rewards: Iterable[float]) -> Histogram | None:
    """Lowest and highest reward and the count in each of :data:`BINS` bins between; None without any."""
    finite = [reward for reward in rewards if isfinite(reward)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    counts = [0] * (BINS + 1)
    if (width := high - low) > 0:
        for reward in finite:
            counts[int((reward - low) / width * BINS)] += 1
    else:
        counts[0] = len(finite)
    counts[BINS - 1] += counts.pop()  # the highest itself
    return Histogram(low, high, counts)
