"""Boards as Grafana's JSON, by Grafana's own SDK (the extra ``boards``)."""

from __future__ import annotations

import json
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from rlhf_otel.dashboards.annotations import marked
from rlhf_otel.dashboards.layout import PlacedSection, place
from rlhf_otel.dashboards.panel_rendering import build_panel
from rlhf_otel.dashboards.spec import Board
from rlhf_otel.dashboards.variables import variables

TAG: Final = "rlhf"
REFRESH: Final = "30s"


def dashboard_json(board: Board, runbook_base: str) -> str:
    """``board`` as the text of a dashboard that Grafana provisions: fixed uid, no id, no inputs."""
    built = _built(board, runbook_base)
    content: dict[str, Any] = {"id": None, **json.loads(JSONEncoder().encode(built))}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _built(board: Board, runbook_base: str) -> models.Dashboard:
    builder = (
        builders.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags([TAG])
        .timezone("browser")
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time(board.since, "now")
        .refresh(REFRESH)
        .variables(variables(board, runbook_base))
        .annotations(marked(board))
        .link(
            builders.DashboardLink("Boards")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .include_vars(True)
            .keep_time(True)
        )
    )
    number = 1
    for section in place(board):
        number = _add(builder, board, section, number)
    return builder.build()


def _add(builder: builders.Dashboard, board: Board, placed: PlacedSection, number: int) -> int:
    """Add a section; returns the next free id."""
    panels = [
        build_panel(board.scope, panel, where, number + 1 + offset)
        for offset, (panel, where) in enumerate(placed.panels)
    ]
    if placed.titled:
        row = builders.Row(placed.section.title).id(number).collapsed(placed.section.folded)
        row = row.grid_pos(models.GridPos(h=1, w=24, x=0, y=placed.y))
        if placed.section.folded:
            for panel in panels:
                row = row.with_panel(panel)
        builder.with_row(row)
    if not placed.section.folded:
        for panel in panels:
            builder.with_panel(panel)
    return number + 1 + len(panels)
