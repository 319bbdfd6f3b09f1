"""Words and colours for the numbers that stand for states, and the links that columns of tables carry."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.recorded import RunState
from rlhf_otel.dashboards.panels import BLUE, GREEN, GREY, ORANGE, RED
from rlhf_otel.dashboards.spec import Link

RUN_STATES: Final = {
    str(RunState.RUNNING.value): ("running", GREEN),
    str(RunState.FINISHED.value): ("finished", BLUE),
    str(RunState.INTERRUPTED.value): ("interrupted", GREY),
    str(RunState.STALLED.value): ("stalled", ORANGE),
    str(RunState.GONE.value): ("gone", RED),
    str(RunState.FAILED.value): ("failed", RED),
}
SEVERITIES: Final = {"critical": ("critical", RED), "warning": ("warning", ORANGE), "info": ("info", BLUE)}
SCRAPED: Final = {"0": ("down", RED), "1": ("up", GREEN)}

RUNBOOK: Final = Link("Runbook", "${runbooks}/${__value.raw}.md")
TRACE: Final = Link(
    "Trace of the step in Tempo",
    "/explore?schemaVersion=1&panes=%7B%22t%22:%7B%22datasource%22:%22${traces}%22,%22queries%22:%5B%7B%22refId%22:"
    "%22A%22,%22queryType%22:%22traceql%22,%22query%22:%22${__value.raw}%22%7D%5D,%22range%22:%7B%22from%22:"
    "%22${__from}%22,%22to%22:%22${__to}%22%7D%7D%7D",
)
"""Explore opens the trace whose id is in the cell."""


def board_link(uid: str, title: str) -> Link:
    """To a board about the run of the row, at the same time."""
    return Link(title, f"/d/{uid}?var-run=${{__data.fields.run_id}}&${{__url_time_range}}")
