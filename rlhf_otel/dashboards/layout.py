"""Where panels lie on Grafana's grid: rows of 24 columns, filled from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rlhf_otel.dashboards.spec import COLUMNS, Board, Panel, Section


class Place(NamedTuple):
    """A panel's rectangle."""

    x: int
    y: int
    width: int
    height: int


class PlacedSection(NamedTuple):
    """A section, the line of its title, and its panels with their places."""

    section: Section
    y: int
    titled: bool
    panels: list[tuple[Panel, Place]]


def place(board: Board) -> list[PlacedSection]:
    """All sections from top to bottom. The first needs no title: it is the board's. Folded ones take one line."""
    placed, y = [], 0
    for number, section in enumerate(board.sections):
        titled = number > 0
        panels, bottom = _fill(section.panels, y + titled)
        placed.append(PlacedSection(section, y, titled, panels))
        y = y + 1 if section.folded else bottom
    return placed


def _fill(panels: Sequence[Panel], y: int) -> tuple[list[tuple[Panel, Place]], int]:
    found = []
    for row in _rows(panels):
        height = max(panel.height for panel in row)
        for panel, (x, width) in zip(row, _spread([panel.width for panel in row]), strict=True):
            found.append((panel, Place(x, y, width, height)))
        y += height
    return found, y


def _rows(panels: Sequence[Panel]) -> list[list[Panel]]:
    rows: list[list[Panel]] = [[]]
    for panel in panels:
        if sum(known.width for known in rows[-1]) + panel.width > COLUMNS:
            rows.append([])
        rows[-1].append(panel)
    return rows


def _spread(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Left edge and width of each; a row that is not full is stretched."""
    total = sum(widths)
    edges = [round(COLUMNS * sum(widths[:n]) / total) for n in range(len(widths) + 1)]
    return [(left, right - left) for left, right in pairwise(edges)]
