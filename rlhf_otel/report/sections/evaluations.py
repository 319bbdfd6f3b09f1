"""Evaluations beside the training reward, and the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.report.curves import Curve
from rlhf_otel.report.document import Block, Chart, Line, Section, Table
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import number, title_of

SHOWN: Final = (
    "reward",
    "loss",
    "kl_per_token",
    "entropy",
    "completion_length",
    "preference_accuracy",
    "token_accuracy",
)
MAX_ROWS: Final = 60


def section(story: Story) -> Section | None:
    """Where a run had any."""
    blocks: list[Block] = []
    for name in SHOWN:
        held_out = _curve(story, name)
        if held_out.steps:
            lines = [Line("evaluation", held_out)]
            if name in story.curves:
                lines.append(Line("training", story.curves[name]))
            blocks.append(Chart(f"{title_of(name)}: evaluation and training", lines))
    names = [name for name in SHOWN if any(name in epoch.get("signals", {}) for epoch in story.epochs)]
    rows = [
        (
            str(epoch.get("epoch", 0) + 1),
            f"{epoch['first_step']} to {epoch['step']}",
            *_means(names, epoch.get("signals", {})),
        )
        for epoch in story.epochs[-MAX_ROWS:]
    ]
    if rows:
        blocks.append(
            Table(
                ("epoch", "steps", *(title_of(name) for name in names)),
                rows,
                "Epochs: means, ranges and clear trends",
            )
        )
    if not blocks:
        return None
    return Section(
        "evaluations",
        "Evaluations and epochs",
        blocks,
        {"evaluations": story.evaluations, "epochs": story.epochs},
    )


def _curve(story: Story, name: str) -> Curve:
    points = [(r["step"], r["values"][name]) for r in story.evaluations if name in r.get("values", {})]
    return Curve([step for step, _ in points], [value for _, value in points])


def _means(names: Sequence[str], signals: dict[str, dict[str, Any]]) -> list[str]:
    return [_mean(known) if (known := signals.get(name)) else "" for name in names]


def _mean(known: dict[str, Any]) -> str:
    """With its range, and the trend where there is one: a signal that jumped and stayed has no line, and is not steady."""
    trend = f", {known['trend']}" if known.get("trend") in ("rising", "falling") else ""
    return f"{number(known['mean'])} ({number(known['min'])} to {number(known['max'])}){trend}"
