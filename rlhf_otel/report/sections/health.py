"""Health over time, by aspect, where the run recorded it."""

from __future__ import annotations

from typing import Final

from rlhf_otel.report.curves import Curve
from rlhf_otel.report.document import Block, Chart, Line, Paragraph, Section, Table
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import number, title_of

TYPE: Final = "health"
OVERALL: Final = "overall"


def section(story: Story) -> Section | None:
    """From 0 to 1; an aspect whose inputs are missing is unknown, and has no line."""
    curves = scores(story)
    if not curves:
        return None
    lines = [Line(title_of(name), curve) for name, curve in curves.items()]
    rows = [
        (title_of(name), number(min(curve.values)), str(_lowest_at(curve)), number(curve.values[-1]))
        for name, curve in curves.items()
    ]
    blocks: list[Block] = [
        Paragraph("From 0 (broken) to 1 (nothing is wrong). The worst aspect decides the overall score."),
        Chart("Health", lines, kind="held"),
        Table(("aspect", "lowest", "at step", "at the end"), rows),
    ]
    plain = {name: {"steps": curve.steps, "values": curve.values} for name, curve in curves.items()}
    return Section("health", "Health", blocks, plain)


def scores(story: Story) -> dict[str, Curve]:
    """By aspect, the overall score first. A record holds until the next; what is unknown is left out."""
    found: dict[str, Curve] = {}
    for record in story.others.get(TYPE, ()):
        for name, score in {OVERALL: record.get(OVERALL), **record.get("aspects", {})}.items():
            if isinstance(score, float | int) and score - score == 0.0:
                curve = found.setdefault(name, Curve([], []))
                curve.steps.append(record["step"])
                curve.values.append(score)
    for curve in found.values():
        curve.steps.append(story.steps[-1])
        curve.values.append(curve.values[-1])
    return found


def _lowest_at(curve: Curve) -> int:
    return curve.steps[curve.values.index(min(curve.values))]
