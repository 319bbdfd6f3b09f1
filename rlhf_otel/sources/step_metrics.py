"""What a TRL trainer measured in one step, whatever ``logging_steps`` is.

TRL appends every value to ``trainer._metrics["train"][key]`` and averages and clears these lists when it
logs. Averaging drops NaN; reading the lists themselves at the end of each step does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Appended = tuple[str, list[Any], int, int]
"""Key, the trainer's list, and the range of it that a step appended. The list only grows, so that it can be
read later."""


class StepMetrics:
    """Notes what was appended since the step before."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._seen: dict[str, tuple[list[Any], int]] = {}

    @property
    def available(self) -> bool:
        """Whether this trainer keeps such lists."""
        metrics = getattr(self._trainer, "_metrics", None)
        return isinstance(metrics, dict) and "train" in metrics

    def take(self) -> list[Appended]:
        """What this step appended; keys without a new value are absent."""
        seen, appended = self._seen, []
        for key, values in self._trainer._metrics["train"].items():
            stop = len(values)
            known = seen.get(key)
            if known is None or known[0] is not values:  # TRL made a new list: it has logged and cleared
                start = 0
            else:
                start = known[1]
            if stop > start:
                appended.append((key, values, start, stop))
                seen[key] = (values, stop)
        return appended


def means(appended: Iterable[Appended]) -> dict[str, Any]:
    """Key to the mean of what the step appended (one value per micro-batch); NaN stays NaN."""
    found: dict[str, Any] = {}
    for key, values, start, stop in appended:
        found[key] = values[start] if stop - start == 1 else sum(values[start:stop]) / (stop - start)
    return found
