"""What a TRL trainer measured in one step, whatever ``logging_steps`` is.

TRL appends every value to a list per key, and averages and clears these lists when it logs. Averaging drops NaN;
reading the lists themselves at the end of each step does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.sources.trl_logs import as_number

Appended = tuple[str, list[Any]]
"""Key, and the values that a step appended to its list."""
Single = tuple[list[str], list[Any]]
"""The trainer's keys, and one value of each, all of this step."""
Grown = tuple[list[str], list[Any], list[int], list[Any], list[int]]
"""The trainer's keys, their lists, and the lengths of these at the end of a step; and the lists of the step before and their
lengths. As lists only grow, this says later what the step appended."""
Held = Single | Grown

_HOLDERS: Final = ("_metrics", "_stored_metrics")
"""Attributes that hold lists under "train": most trainers, and CPO, ORPO, BCO."""


class StepMetrics:
    """Notes what is in the lists at the end of each step, on the training thread; :meth:`appended` works out
    later, on another, what a step appended."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._holder = next((name for name in _HOLDERS if isinstance(getattr(trainer, name, None), dict)), "")
        self._before: list[Any] = []
        """The lists at the end of the step before, which have no other's identity while they are held."""
        self._lengths: list[int] | None = None
        """Their lengths; None where all had one value."""
        self._rewards: list[Any] | None = None
        self._rewarded = 0
        """Length of the list of rewards."""
        self.generated = False
        """Whether rewards were appended in the step that was taken last."""
        self._keys: set[str] = set()

    @property
    def available(self) -> bool:
        """Whether this trainer keeps such lists."""
        return bool(self._holder) or _has_lists(getattr(self._trainer, "stats", None))

    @property
    def keys(self) -> Collection[str]:
        """The keys that have been seen in lists."""
        return self._keys

    def take(self) -> Held:
        """What the lists hold now. A step costs a few calls here, however many keys there are.

        Where it logs at every step, its lists are new, and mostly of one value: then these are taken, and not the
        lists, whose memory the trainer takes for the next.
        """
        self.generated = False
        held = self._lists()
        lists = list(held.values())
        before, self._before = self._before, lists
        rewards = held.get("reward")
        seen = self._rewarded if rewards is self._rewards else 0
        self._rewards, self._rewarded = rewards, 0 if rewards is None else len(rewards)
        self.generated = self._rewarded > seen
        # The lists of a dict that was not cleared are where they were in it. Two tell: TRL replaces one of them
        # while it goes on (``num_tokens``).
        if len(lists) > 1 < len(before) and lists[0] is not before[0] and lists[1] is not before[1]:
            try:
                values = [value for (value,) in lists]
            except ValueError:  # one of them has none, or several
                pass
            else:
                self._lengths = None
                return list(held), values
        known = [1] * len(before) if self._lengths is None else self._lengths
        self._lengths = list(map(len, lists))
        return list(held), lists, self._lengths, before, known

    def appended(self, held: Held) -> list[Appended]:
        """What a step appended; keys without a new value are absent."""
        if len(held) == 2:
            appended = [(key, [value]) for key, value in zip(*held, strict=True)]
        else:
            appended = list(_grown(*held))
        self._keys.update(key for key, _ in appended)
        return appended

    def _lists(self) -> Mapping[str, Any]:
        if not self._holder:  # online DPO and its kin
            lists: Mapping[str, Any] = self._trainer.stats
            return lists
        return getattr(self._trainer, self._holder).get("train") or {}


def _grown(
    keys: list[str], lists: list[Any], lengths: list[int], before: list[Any], known: list[int]
) -> Iterator[Appended]:
    starts = dict(zip(map(id, before), known, strict=True))
    for key, values, stop in zip(keys, lists, lengths, strict=True):
        start = starts.get(id(values), 0)  # of a list that is new, all: the trainer has logged and cleared
        if stop > start and isinstance(values, list):
            yield key, values[start:stop]


def _has_lists(stats: Any) -> bool:
    return isinstance(stats, dict) and bool(stats) and all(isinstance(held, list) for held in stats.values())


def means(appended: Iterable[Appended], reduces_by_name: bool = False) -> dict[str, Any]:
    """Key to the mean of what the step appended (one value per micro-batch); NaN stays NaN.

    A rate of the async trainers is appended as a pair, numerator and denominator; with ``reduces_by_name`` a
    word of the key says what else is done, as they do when they log.
    """
    found: dict[str, Any] = {}
    for key, values in appended:
        try:
            reduced = _reduced(key, values, reduces_by_name)
        except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:  # None, say
            faults.record("sources", error, f"averaging what the trainer measured as {key!r}")
            continue
        if reduced is not None:
            found[key] = reduced
    return _divided(found) if "count/chosen" in found or "count/rejected" in found else found


def _reduced(key: str, values: list[Any], by_name: bool) -> Any:
    if isinstance(values[0], tuple):
        denominator = sum(pair[1] for pair in values)
        return sum(pair[0] for pair in values) / denominator if denominator else None
    if len(values) == 1:
        return values[0]
    words = key.rpartition("/")[2].split("_") if by_name else ()
    if "total" in words:
        return sum(values)
    if "max" in words or "min" in words:
        return max(values) if "max" in words else min(values)
    return sum(values) / len(values)


def _divided(found: dict[str, Any]) -> dict[str, Any]:
    """BCO appends sums and counts of either side, since a batch may have none of one."""
    divided: dict[str, Any] = {}
    for key, value in found.items():
        name = key.removesuffix("_sum")
        if name == key and not key.startswith("count/"):
            divided[key] = value
            continue
        total, count = as_number(value), as_number(found.get(f"count/{name.rpartition('/')[2]}"))
        if name != key and total is not None and count:
            divided[name] = total / count
    return divided
