"""The queries of a board as Grafana would send them, read from its JSON.

What Grafana fills in is filled in here: variables, ``$__range`` and ``$__rate_interval``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_POINTS: Final = 1000
"""Grafana's points of a series where a panel does not say: about its width in pixels."""
_STEPS: Final = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600)
"""Seconds that Grafana rounds an interval up to, or nearly so."""


@dataclass(frozen=True, slots=True)
class Span:
    """The chosen time, in Unix seconds, and how often Prometheus scrapes."""

    start: float
    end: float
    scrape_s: int = 15

    @property
    def range_s(self) -> int:
        """Its length."""
        return max(1, round(self.end - self.start))

    def step_s(self, points: int | None = None) -> int:
        """Grafana's ``$__interval`` for a panel of so many points."""
        wanted = max(self.scrape_s, self.range_s / (points or _POINTS))
        return next((step for step in _STEPS if step >= wanted), _STEPS[-1])


@dataclass(frozen=True, slots=True)
class Asked:
    """One query, ready to be sent."""

    owner: str
    """Title of the panel, or the name of the variable or annotation."""
    kind: str
    """``panel``, ``variable`` or ``annotation``."""
    expression: str
    """As it is sent."""
    raw: str
    """As it is written."""
    instant: bool
    step_s: int
    legend: str = ""


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels of a board's JSON, folded ones too, without the titles of rows."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", [])
        else:
            yield panel


def queries(board: Mapping[str, Any], values: Mapping[str, str], span: Span) -> Iterator[Asked]:
    """Everything that Prometheus is asked for a board."""
    for panel in panels(board):
        yield from of_panel(panel, values, span)
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            text = variable["query"]["query"]
            yield _asked(variable["name"], "variable", _selected(text), values, span, True)
    for annotation in board["annotations"]["list"]:
        yield _asked(annotation["name"], "annotation", annotation["expr"], values, span, False, 60)


def of_panel(panel: Mapping[str, Any], values: Mapping[str, str], span: Span) -> Iterator[Asked]:
    """The queries of one panel."""
    step = span.step_s(panel.get("maxDataPoints"))
    for target in panel["targets"]:
        legend = target.get("legendFormat", "")
        yield _asked(
            panel["title"], "panel", target["expr"], values, span, bool(target.get("instant")), step, legend
        )


def _asked(
    owner: str,
    kind: str,
    raw: str,
    values: Mapping[str, str],
    span: Span,
    instant: bool,
    step: int = 60,
    legend: str = "",
) -> Asked:
    return Asked(owner, kind, filled(raw, values, span, step), raw, instant, step, legend)


def _selected(text: str) -> str:
    """The series that a variable's query looks at: ``label_values(series, label)`` or ``query_result(expression)``."""
    function, _, rest = text.partition("(")
    inside = rest.rpartition(")")[0]
    return inside.rpartition(",")[0] if function == "label_values" else inside


def filled(text: str, values: Mapping[str, str], span: Span, step: int) -> str:
    """``text`` as Grafana sends it."""
    rate = max(step + span.scrape_s, 4 * span.scrape_s)
    known = {"__rate_interval": f"{rate}s", "__range": f"{span.range_s}s", "__interval": f"{step}s", **values}
    for name, value in sorted(known.items(), key=lambda item: -len(item[0])):
        text = text.replace(f"${name}", value)
    return text
