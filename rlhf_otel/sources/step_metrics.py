"""What a TRL trainer measured in one step, whatever ``logging_steps`` is.

TRL appends every value to a list per key, and averages and clears these lists when it logs. Averaging drops NaN;
reading the lists themselves at the end of each step does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.sources.trl_logs import as_number

Appended = tuple[str, list[Any], int, int]
"""Key, the trainer's list, and the range of it that a step appended."""
Held = tuple[list[str], list[Any], list[int]]
"""The trainer's keys, their lists, and the lengths of these at the end of a step: as lists only grow, this says
later what was in them then."""

_HOLDERS: Final = ("_metrics", "_stored_metrics")
"""Attributes that hold lists under "train": most trainers, and CPO, ORPO, BCO."""


class StepMetrics:
    """Notes what is in the lists at the end of each step, on the training thread; :meth:`appended` works out
    later, on another, what a step appended."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._holder = next((name for name in _HOLDERS if isinstance(getattr(trainer, name, None), dict)), "")
        self._seen: dict[str, tuple[list[Any], int]] = {}
        self._rewards: tuple[Any, int] = (None, 0)

    @property
    def available(self) -> bool:
        """Whether this trainer keeps such lists."""
        return bool(self._holder) or _has_lists(getattr(self._trainer, "stats", None))

    @property
    def keys(self) -> Mapping[str, Any]:
        """The keys that have been seen in lists."""
        return self._seen

    def take(self) -> Held:
        """What the lists hold now. A step costs three calls here, however many keys there are."""
        held = self._lists()
        lists = list(held.values())
        return list(held), lists, list(map(len, lists))

    def generated(self) -> bool:
        """Whether rewards were appended since the last call."""
        rewards = self._lists().get("reward")
        known, seen = self._rewards
        count = len(rewards) if rewards is not None else 0
        self._rewards = (rewards, count)
        return count > (seen if known is rewards else 0)

    def appended(self, held: Held) -> list[Appended]:
        """What a step appended, given the steps in their order; keys without a new value are absent."""
        seen, appended = self._seen, []
        for key, values, stop in zip(*held, strict=True):
            if not isinstance(values, list):
                continue
            known = seen.get(key)
            # TRL made a new list: it has logged and cleared.
            start = 0 if known is None or known[0] is not values else known[1]
            if stop > start:
                appended.append((key, values, start, stop))
                seen[key] = (values, stop)
        return appended

    def _lists(self) -> Mapping[str, Any]:
        if not self._holder:  # online DPO and its kin
            lists: Mapping[str, Any] = self._trainer.stats
            return lists
        return getattr(self._trainer, self._holder).get("train") or {}


def _has_lists(stats: Any) -> bool:
    return isinstance(stats, dict) and bool(stats) and all(isinstance(held, list) for held in stats.values())


def means(appended: Iterable[Appended], reduces_by_name: bool = False) -> dict[str, Any]:
    """Key to the mean of what the step appended (one value per micro-batch); NaN stays NaN.

    A rate of the async trainers is appended as a pair, numerator and denominator; with ``reduces_by_name`` a
    word of the key says what else is done, as they do when they log.
    """
    found: dict[str, Any] = {}
    for key, values, start, stop in appended:
        try:
            reduced = _reduced(key, values[start:stop], reduces_by_name)
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
