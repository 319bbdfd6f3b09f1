"""A board as a picture: its panels on their grid, with what a real Prometheus answers (the extra ``boards``)."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rlhf_otel.dashboards.asking import Asked, Span, of_panel
from rlhf_otel.dashboards.spec import Board, Variables
from rlhf_otel.errors import BoardError

COLUMN_IN: Final = 0.5
ROW_IN: Final = 0.27
DPI: Final = 110


class Prometheus:
    """Asked as Grafana asks."""

    def __init__(self, url: str, span: Span) -> None:
        self._url, self._span = url.rstrip("/"), span

    def ask(self, asked: Asked) -> list[dict[str, Any]]:
        """Its answer. BoardError where it cannot be reached or refuses."""
        times = {"start": self._span.start, "end": self._span.end, "step": asked.step_s}
        path, more = ("query", {"time": self._span.end}) if asked.instant else ("query_range", times)
        body = urllib.parse.urlencode({"query": asked.expression, **more}).encode()
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/{path}", body, timeout=60) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise BoardError(f"Prometheus refuses {asked.expression}: {error.read().decode()}") from error
        except OSError as error:
            raise BoardError(f"{self._url} does not answer as a Prometheus: {error}") from error
        return found


def latest_run(prometheus: Prometheus, board: Board) -> str:
    """The run with which Grafana would open a board; of the fleet, all."""
    if board.variables is Variables.FLEET:
        return ".+"
    algorithms = f', algorithm=~"{"|".join(board.algorithms)}"' if board.algorithms else ""
    expression = f'topk(1, max by (run_id) (last_over_time(rlhf_run_info{{rank="0"{algorithms}}}[1h]) * 0 + on (run_id) '
    expression += "group_left () max by (run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[1h]))))"
    found = prometheus.ask(Asked(board.title, "variable", expression, expression, True, 60))
    return str(found[0]["metric"]["run_id"]) if found else "none"


def picture(
    board: Mapping[str, Any], prometheus: Prometheus, values: Mapping[str, str], span: Span, path: Path
) -> None:
    """Draw a board's JSON into the PNG at ``path``; folded sections are opened."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    from rlhf_otel.dashboards.drawing import PAPER, TEXT, draw

    placed, titles, height = unfolded(board)
    figure = pyplot.figure(figsize=(24 * COLUMN_IN, height * ROW_IN + 0.4), facecolor=PAPER, dpi=DPI)
    full = figure.get_figheight()
    figure.text(
        0.01, 1 - 0.22 / full, board["title"], color=TEXT, fontsize=11, fontweight="bold", va="center"
    )
    for title, y in titles:
        figure.text(0.01, 1 - (0.4 + (y + 0.5) * ROW_IN) / full, title, color=TEXT, fontsize=8.5, va="center")
    for panel, y in placed:
        grid = panel["gridPos"]
        left, right = 0.46 if panel["type"] in ("timeseries", "heatmap") else 0.08, 0.1
        left = 0.9 if panel["type"] in ("bargauge", "state-timeline") else left
        bottom = (
            0.42
            if panel["type"] == "timeseries"
            else 0.2
            if panel["type"] in ("heatmap", "state-timeline")
            else 0.08
        )
        box = (
            (grid["x"] * COLUMN_IN + left) / (24 * COLUMN_IN),
            1 - (0.4 + (y + grid["h"]) * ROW_IN - bottom) / full,
            (grid["w"] * COLUMN_IN - left - right) / (24 * COLUMN_IN),
            (grid["h"] * ROW_IN - bottom - 0.26) / full,
        )
        results = [prometheus.ask(asked) for asked in of_panel(panel, values, span)]
        draw(figure.add_axes(box), panel, results, span.end)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor=PAPER)
    pyplot.close(figure)


def unfolded(board: Mapping[str, Any]) -> tuple[list[tuple[dict[str, Any], int]], list[tuple[str, int]], int]:
    """Panels and titles with their lines once every section is open, and the height of it all."""
    panels: list[tuple[dict[str, Any], int]] = []
    titles: list[tuple[str, int]] = []
    shift, bottom = 0, 0
    for panel in board["panels"]:
        y = panel["gridPos"]["y"] + shift
        bottom = max(bottom, y + panel["gridPos"]["h"])
        if panel["type"] != "row":
            panels.append((panel, y))
            continue
        titles.append((panel["title"], y))
        inside = panel.get("panels", [])
        panels += [(one, one["gridPos"]["y"] + shift) for one in inside]
        ends = [one["gridPos"]["y"] + shift + one["gridPos"]["h"] for one in inside]
        shift += max(ends, default=y + 1) - (y + 1)
        bottom = max([bottom, *ends])
    return panels, titles, bottom
