"""Two or more runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from rlhf_otel.catalogue.headlines import HEADLINES
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.report.document import Chart, Line, Paragraph, Section, Table
from rlhf_otel.report.sections.setup import UNSET
from rlhf_otel.report.sections.summary import outcome
from rlhf_otel.report.story import Story
from rlhf_otel.report.words import about, cell, duration, number, title_of, unit_of

PLACES: Final = frozenset(
    {
        "output_dir",
        "logging_dir",
        "run_name",
        "hub_model_id",
        "overwrite_output_dir",
        "resume_from_checkpoint",
    }
)
"""Arguments in which runs always differ, and that change nothing."""
MAX_ROWS: Final = 100


def sections(stories: Sequence[Story]) -> list[Section]:
    """How the runs ended, what they were told to do, what they did, and what fired."""
    names = names_of(stories)
    return [
        _overview(stories, names),
        _differences(stories, names),
        _curves(stories, names),
        _fired(stories, names),
    ]


def names_of(stories: Sequence[Story]) -> list[str]:
    """A name for each: what people call it, or its id, or a number before that, whichever tells them apart."""
    for names in ([story.name for story in stories], [story.identity.run_id for story in stories]):
        if len(set(names)) == len(names) and all(names):
            return names
    return [f"{place}: {story.name}" for place, story in enumerate(stories, 1)]


def _overview(stories: Sequence[Story], names: Sequence[str]) -> Section:
    columns = ("run", "outcome", "steps", "time", *(s.value for s in Severity))
    rows = [
        (
            name,
            outcome(story),
            str(len(story.steps)),
            duration(story.seconds),
            *(str(story.count(s)) for s in Severity),
        )
        for name, story in zip(names, stories, strict=True)
    ]
    ends = [
        (title_of(signal), *(_ended(story, signal) for story in stories), unit_of(signal))
        for signal in HEADLINES
        if any(signal in story.curves for story in stories)
    ]
    blocks = [
        Table(columns, rows),
        Table(("", *names, "unit"), ends, "At the end (medians of the last tenth)"),
    ]
    data = {
        name: {"outcome": outcome(story), "steps": len(story.steps), "seconds": story.seconds,
               "last": {signal: curve.last() for signal, curve in story.curves.items()}}
        for name, story in zip(names, stories, strict=True)
    }  # fmt: skip
    return Section("comparison", "The runs", blocks, data)


def _ended(story: Story, signal: str) -> str:
    curve = story.curves.get(signal)
    return number(curve.last()) if curve is not None and curve.finite() else ""


def _differences(stories: Sequence[Story], names: Sequence[str]) -> Section:
    rows = [
        (key, *(cell(value) for value in values))
        for key, values in _settings(stories)
        if any(value != values[0] for value in values)
    ]
    shown = Table(("argument", *names), rows[:MAX_ROWS]) if rows else Paragraph(_nothing(stories))
    return Section("differences", "What was configured differently", [shown], [list(row) for row in rows])


def _nothing(stories: Sequence[Story]) -> str:
    if any(not story.config for story in stories):
        return "Unknown: a log here does not have the trainer's arguments. Journals do."
    return "Nothing, but for where they write."


def _settings(stories: Sequence[Story]) -> Iterator[tuple[str, list[object]]]:
    """Every argument and setting, and its value in each run."""
    if any(not story.config for story in stories):
        return
    merged = [{**story.config, **story.environment, "model": story.identity.model} for story in stories]
    for key in sorted({key for each in merged for key in each} - PLACES):
        yield key, [None if each.get(key) in UNSET else each.get(key) for each in merged]


def _curves(stories: Sequence[Story], names: Sequence[str]) -> Section:
    charts = []
    for signal in HEADLINES:
        lines = [
            Line(name, story.curves[signal])
            for name, story in zip(names, stories, strict=True)
            if signal in story.curves
        ]
        if any(line.curve.moves() for line in lines):
            charts.append(Chart(title_of(signal), lines, unit=unit_of(signal), about=about(signal)))
    return Section("curves", "Curves", charts, None)


def _fired(stories: Sequence[Story], names: Sequence[str]) -> Section:
    rules = dict.fromkeys(found.anomaly.rule for story in stories for found in story.findings)
    rows = [(rule, *(_when(story, rule) for story in stories)) for rule in rules]
    shown = Table(("rule", *names), rows) if rows else Paragraph("No rule fired in any of them.")
    data = {rule: list(row) for rule, *row in rows}
    return Section("anomalies", "Anomalies", [shown], data)


def _when(story: Story, rule: str) -> str:
    spans = [found.span for found in story.findings if found.anomaly.rule == rule]
    more = f" and {len(spans) - 3} more" if len(spans) > 3 else ""
    return ", ".join(spans[:3]) + more or "-"
