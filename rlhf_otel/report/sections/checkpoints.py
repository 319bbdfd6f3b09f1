"""Saved checkpoints: health, how far the weights moved, and what was found in them."""

from __future__ import annotations

from pathlib import PurePath
from typing import Final

from rlhf_otel.report.curves import Curve
from rlhf_otel.report.document import Block, Chart, Line, Paragraph, Section, Table
from rlhf_otel.report.sections.marks import marks_on
from rlhf_otel.report.story import Record, Story
from rlhf_otel.report.words import number

MAX_ROWS: Final = 100
_LINES: Final = (
    ("Health", "health", "checkpoint_health"),
    ("Drift from the checkpoint before", "drift", "checkpoint_drift"),
    ("Drift from the initial model", "reference_drift", "checkpoint_reference_drift"),
)


def section(story: Story) -> Section | None:
    """Where any was saved."""
    if not story.checkpoints and not story.analyses:
        return None
    analysed = {record["step"]: record for record in story.analyses}
    steps = sorted({record["step"] for record in story.checkpoints} | set(analysed))
    paths = {record["step"]: record.get("path", "") for record in [*story.analyses, *story.checkpoints]}
    rows = [_row(step, paths.get(step, ""), analysed.get(step)) for step in steps[-MAX_ROWS:]]
    columns = ("step", "checkpoint", "health", "drift", "from the initial model", "findings")
    blocks: list[Block] = [
        Paragraph("Drift is the L2 distance of the weights over their norm. Health is 0 to 1, by findings."),
        Table(columns, rows),
    ]
    for title, key, signal in _LINES:
        curve = _curve(story.analyses, key)
        if len(curve.steps) > 1:
            blocks.append(Chart(title, (Line(title, curve),), marks_on(story, {signal})))
    return Section(
        "checkpoints", "Checkpoints", blocks, {"saved": story.checkpoints, "analyses": story.analyses}
    )


def _row(step: int, path: str, analysis: Record | None) -> tuple[str, ...]:
    name = PurePath(path).name
    if analysis is None:
        return (str(step), name, "", "", "", "not analysed")
    if analysis.get("error"):
        return (str(step), name, "", "", "", f"not analysed: {analysis['error']}")
    return (str(step), name, *(_number(analysis, key) for _, key, _ in _LINES), _findings(analysis))


def _number(analysis: Record, key: str) -> str:
    return number(analysis[key]) if key in analysis else ""


def _findings(analysis: Record) -> str:
    found = [
        f"{each['name']} in {each['where']}: {each['evidence']}" for each in analysis.get("findings", ())
    ]
    more = sum(analysis.get("counts", {}).values()) - len(found)
    return "; ".join([*found[:5], *([f"{more} more"] if more > 0 else [])]) or "none"


def _curve(analyses: list[Record], key: str) -> Curve:
    points = [(each["step"], each[key]) for each in analyses if isinstance(each.get(key), float | int)]
    finite = [(step, value) for step, value in points if value - value == 0.0]
    return Curve([step for step, _ in finite], [value for _, value in finite])
