"""Reward functions: level and spread of each, their distributions, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from rlhf_otel.report.curves import Curve
from rlhf_otel.report.document import Block, Chart, Line, Section, Table
from rlhf_otel.report.sections.marks import marks_on
from rlhf_otel.report.story import Record, Story
from rlhf_otel.report.words import cell, number, title_of

MAX_FUNCTIONS: Final = 20
"""That get lines and charts; the table has the first hundred."""
MAX_ROWS: Final = 100
MONITOR: Final = "reward_model"
"""Type of the records of a ``RewardModelMonitor``."""


def section(story: Story) -> Section | None:
    """Where a run has reward functions, or a monitor of a reward model."""
    monitored = story.others.get(MONITOR, [])
    if not story.functions and not monitored:
        return None
    blocks: list[Block] = []
    if story.functions:
        blocks += list(_of_functions(story))
    if monitored:
        blocks += list(_of_monitor(monitored))
    return Section("reward_functions", "Reward functions", blocks, _data(story, monitored))


def _of_functions(story: Story) -> Iterator[Block]:
    rows = [
        (
            name, number(curve.first()), number(curve.last()), curve.sparkline(30),
            number(story.deviations[name].first()), number(story.deviations[name].last()),
        )
        for name, curve in list(story.functions.items())[:MAX_ROWS]
    ]  # fmt: skip
    columns = (
        "function",
        "mean, first tenth",
        "last tenth",
        "course",
        "deviation, first tenth",
        "last tenth",
    )
    yield Table(columns, rows)
    if len(story.functions) > MAX_ROWS:
        yield Table(("", ""), [("Further functions", str(len(story.functions) - MAX_ROWS))])
    marks = marks_on(story, {"reward_function_share", "reward_function_correlation", "reward"})
    for title, curves in (("Mean reward", story.functions), ("Standard deviation", story.deviations)):
        lines = [Line(name, curve) for name, curve in list(curves.items())[:MAX_FUNCTIONS]]
        yield Chart(f"{title} by function", lines, marks if curves is story.functions else ())
    for name, kept in list(story.histograms.items())[:MAX_FUNCTIONS]:
        lines = [Line(f"step {step}", _bins(histogram)) for step, histogram in kept]
        yield Chart(f"Rewards of {name}", lines, kind="bars", unit="completions", across="reward")


def _bins(histogram: Record) -> Curve:
    """Counts over the middles of the bins."""
    low, high, counts = histogram["low"], histogram["high"], histogram["counts"]
    width = (high - low) / len(counts) if counts else 0.0
    return Curve([low + width * (i + 0.5) for i in range(len(counts))], counts)


def _of_monitor(records: list[Record]) -> Iterator[Block]:
    """What the monitors said last, and what they advise."""
    latest: dict[str, Record] = {str(record.get("name", "reward")): record for record in records}
    for name, record in list(latest.items())[:MAX_FUNCTIONS]:
        rows = [(title_of(key), text) for key, text in _flat(record)]
        yield Table(("", ""), rows, f"Reliability of {name} at step {record.get('step', 'unknown')}")


def _flat(record: Record, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Its fields, without empty ones and without lists of numbers."""
    for key, value in record.items():
        if value in (None, "", [], {}, ()) or (not prefix and key in ("type", "time", "name", "step")):
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            yield f"{prefix}{key}", "; ".join(map(cell, value[:5]))
        else:
            yield f"{prefix}{key}", number(value) if isinstance(value, float) else cell(value)


def _data(story: Story, monitored: list[Record]) -> dict[str, Any]:
    functions = {
        name: {
            "mean": {"first": curve.first(), "last": curve.last()},
            "deviation": {"first": story.deviations[name].first(), "last": story.deviations[name].last()},
        }
        for name, curve in story.functions.items()
    }
    return {"functions": functions, "monitored": monitored[-MAX_FUNCTIONS:]}
