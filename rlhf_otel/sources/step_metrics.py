"""What a TRL trainer measured in one step, whatever ``logging_steps`` is.

TRL appends every value to ``trainer._metrics["train"][key]`` and averages and clears these lists when it logs.
Averaging drops NaN; reading the lists themselves at the end of each step does not.
"""

from __future__ import annotations

from typing import Any


class StepMetrics:
    """Reads the values that were appended since the step before."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._seen: dict[str, tuple[list[float], int]] = {}

    @property
    def available(self) -> bool:
        """Whether this trainer keeps such lists."""
        metrics = getattr(self._trainer, "_metrics", None)
        return isinstance(metrics, dict) and "train" in metrics

    def take(self) -> dict[str, Any]:
        """Key to the mean of the values that this step appended; keys without a new value are absent."""
        seen, fresh = self._seen, {}
        for key, values in self._trainer._metrics["train"].items():
            known, length = seen.get(key, (None, 0))
            start = length if known is values else 0  # TRL made a new list: it has logged and cleared
            count = len(values) - start
            if count == 1:
                fresh[key] = values[-1]
            elif count > 1:
                fresh[key] = sum(values[start:]) / count
            seen[key] = (values, len(values))
        return fresh
