"""Rewards step by step: :class:`rlhf_otel.RewardModelMonitor`, with a log of what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from rlhf_otel.reward_model import RewardModelMonitor
from rlhf_otel.trl_integration.lines import append

FILE: Final = "reward_model.jsonl"


class RewardModelIntegrator:
    """Says how far to trust a reward."""

    def __init__(
        self, log_dir: str | Path = "reward_logs", monitor: RewardModelMonitor | None = None
    ) -> None:
        self.log_dir = Path(log_dir)
        self.monitor = monitor or RewardModelMonitor()

    def monitor_reward_model(
        self,
        rewards: Sequence[Any],
        step: int,
        completions: Sequence[Any] = (),
        name: str = "reward_model",
    ) -> dict[str, Any]:
        """Take the scores of a step; NaN and None among them are counted, and otherwise left out.

        Returns what is known of the reward by now: reliability (``stability``, ``consistency``, distribution, drift),
        ``calls`` and ``recommendations``. What is not known yet is None. A line of it goes to ``reward_model.jsonl``.
        """
        self.monitor.observe(name, rewards, completions)
        return self._told(name, step)

    def wrap(self, function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
        """A TRL reward function that is watched."""
        return self.monitor.wrap(function, name)

    def log(self, step: int) -> dict[str, Any]:
        """What is known of every reward that is watched, also as lines of the log."""
        return {name: self._told(name, step) for name in self.monitor.names}

    def _told(self, name: str, step: int) -> dict[str, Any]:
        known = self.monitor.report()["rewards"].get(name, {})
        told = {"name": name, "step": step, **known}
        append(self.log_dir / FILE, {"type": "reward_model", **told})
        return told
