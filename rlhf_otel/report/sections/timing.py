"""Where the time went: phases over the run, the slowest steps, and what produced nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rlhf_otel.catalogue.spans import PHASE_BY_NAME
from rlhf_otel.report.curves import Curve
from rlhf_otel.report.document import Block, Chart, Line, Paragraph, Section, Table
from rlhf_otel.report.sections import stalls
from rlhf_otel.report.sections.charts import chart_of
from rlhf_otel.report.story import Phases, Story
from rlhf_otel.report.words import duration, share, title_of

MAX_PHASES: Final = 10
"""That have a colour of their own; the rest is added up."""


def section(story: Story) -> Section | None:
    """Durations, and the phases where the journal has them."""
    blocks: list[Block] = [
        chart_of(story, name)
        for name in ("step_duration", "tokens_per_second")
        if name in story.curves and story.curves[name].moves()
    ]
    phases = story.phases
    if phases.seconds:
        blocks += list(_of_phases(phases))
    if stalled := stalls.table(story):
        blocks.append(stalled)
    blocks += list(_of_waste(story))
    if not blocks:
        return None
    data = {
        "phase_seconds": phases.totals(),
        "slowest": [
            {"step": step, "seconds": seconds, "phase": phase} for step, seconds, phase in phases.slowest
        ],
        "stalls": stalls.data(story),
        "wasted_seconds": story.waste.seconds,
    }
    return Section("time", "Where the time went", blocks, data)


def _of_phases(phases: Phases) -> Iterator[Block]:
    totals = phases.totals()
    whole = sum(totals.values())
    rows = [
        (name, duration(seconds), share(seconds, whole), _about(name)) for name, seconds in totals.items()
    ]
    yield Table(("phase", "time", "share", "what it is"), rows, "Phases (own time, without phases inside)")
    names = list(totals)[:MAX_PHASES]
    lines = [
        Line(name, Curve(phases.stretches, [seconds.get(name, 0.0) for seconds in phases.seconds]))
        for name in names
    ]
    rest = [sum(s for name, s in seconds.items() if name not in names) for seconds in phases.seconds]
    if any(rest):
        lines.append(Line("others", Curve(phases.stretches, rest)))
    yield Chart("Phases over the run", lines, unit="seconds", kind="stack")
    slow = [(str(step), duration(seconds), phase) for step, seconds, phase in phases.slowest]
    yield Table(("step", "duration", "longest phase"), slow, "Slowest steps")


def _about(name: str) -> str:
    known = PHASE_BY_NAME.get(name)
    return known.help if known is not None else ""


def _of_waste(story: Story) -> Iterator[Block]:
    """Time that produced nothing, by reason."""
    wasted = story.waste.seconds
    if any(wasted.values()):
        yield from (Paragraph(f"{sentence}.") for sentence in story.waste.sentences())
        whole = story.seconds or 0.0
        rows = [
            (title_of(reason), duration(seconds), share(seconds, whole)) for reason, seconds in wasted.items()
        ]
        yield Table(("reason", "time", "share of the run"), rows, "In vain")
