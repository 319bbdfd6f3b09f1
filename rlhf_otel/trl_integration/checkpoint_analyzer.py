"""Checkpoints as Python objects: :mod:`rlhf_otel.checkpoints`, with a log of what was analysed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from rlhf_otel import checkpoints
from rlhf_otel.checkpoints.comparison import compare
from rlhf_otel.checkpoints.inspection import Inspection
from rlhf_otel.checkpoints.reports.json_text import plain_summary
from rlhf_otel.trl_integration.lines import append

FILE: Final = "checkpoint_analysis.jsonl"
TOP: Final = 10


class CheckpointAnalyzer:
    """Says what is wrong with a checkpoint, and how far it moved from another."""

    def __init__(self, log_dir: str | Path = "checkpoint_logs") -> None:
        self.log_dir = Path(log_dir)

    def analyze_checkpoint(self, path: str | Path, step: int | None = None) -> dict[str, Any]:
        """A directory or file, compared with the ``checkpoint-<step>`` before it where there is one.

        Returns ``health_score`` (0 to 1), ``findings`` (the worst first), ``recommendations`` and ``change``; a line of it
        goes to ``checkpoint_analysis.jsonl``. Raises CheckpointError where it is no checkpoint.
        """
        analysis = _plain(checkpoints.inspect(path, checkpoints.previous(Path(path))), step)
        append(self.log_dir / FILE, {"type": "checkpoint_analysis", **analysis})
        return analysis

    def compare_checkpoints(self, before: str | Path, after: str | Path) -> dict[str, Any]:
        """As :meth:`analyze_checkpoint` of ``after``, with ``drift`` (‖Δ‖/‖w‖) and ``top_movers`` by tensor."""
        found = compare(Path(before), Path(after))
        movers = {one.tensor.name: one.change.drift for one in found.movers[:TOP]}
        comparison = {**_plain(found.after, None), "drift": found.after.drift, "top_movers": movers}
        append(self.log_dir / FILE, {"type": "checkpoint_comparison", **comparison})
        return comparison


def _plain(found: Inspection, step: int | None) -> dict[str, Any]:
    summary = plain_summary(found)
    advice = dict.fromkeys(f"{one['name']} in {one['where']}: {one['advice']}" for one in summary["findings"])
    return {
        **{key: value for key, value in summary.items() if key not in ("version", "health")},
        "step": step if step is not None else found.step,
        "health_score": found.health,
        "recommendations": list(advice),
    }
