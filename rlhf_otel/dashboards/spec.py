"""What a board is, as data: sections of panels, panels of queries. ``rendering`` turns it into Grafana's JSON.

Expressions are written without the matchers that every one of them needs (``job``, ``run_id``, ``rank``): the
board's :class:`Scope` puts them in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from rlhf_otel.catalogue.metrics import METRIC_BY_NAME

COLUMNS: Final = 24
"""Width of Grafana's grid."""


class Kind(StrEnum):
    """Grafana's panel types in use."""

    STAT = "stat"
    TIME_SERIES = "timeseries"
    TABLE = "table"
    HEATMAP = "heatmap"
    STATE_TIMELINE = "state-timeline"
    BAR_GAUGE = "bargauge"


class Look(StrEnum):
    """How a series is drawn beside the others of its panel."""

    PLAIN = "plain"
    USUAL = "usual"
    """A baseline: grey and dashed."""
    LIMIT = "limit"
    """Where a rule begins to be in breach: dashed, in the colour of its severity."""


@dataclass(frozen=True, slots=True)
class Query:
    """One expression; ``legend`` as in Grafana (``{{label}}``), for tables the title of its column (without one, only
    its labels are shown)."""

    expression: str
    legend: str = ""
    unit: str = ""
    """Where it is not the panel's."""
    exemplar: bool = False
    look: Look = Look.PLAIN
    color: str = ""


@dataclass(frozen=True, slots=True)
class Threshold:
    """From ``value`` upwards ``color`` holds; None is the lowest end."""

    value: float | None
    color: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link of a table's column; ``url`` may hold Grafana's ``${...}``."""

    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. ``description`` says what it is and what good looks like, ``empty`` why it may show nothing."""

    kind: Kind
    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    empty: str
    width: int = 8
    height: int = 7
    thresholds: tuple[Threshold, ...] = ()
    mappings: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Value to text and colour."""
    minimum: float | None = None
    maximum: float | None = None
    decimals: int | None = None
    stacked: bool = False
    logarithmic: bool = False
    columns: tuple[str, ...] = ()
    """Labels that a table shows, in order, before the values."""
    hidden: tuple[str, ...] = ()
    """Of those, the ones that only links need."""
    column_links: dict[str, Link] = field(default_factory=dict)
    column_mappings: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    """By title of a column, or of a number among several."""
    column_thresholds: dict[str, tuple[Threshold, ...]] = field(default_factory=dict)
    sort_by: str = ""
    axis: str = ""
    points: int | None = None
    """Most points of a series; fewer where there are many series."""


@dataclass(frozen=True, slots=True)
class Section:
    """Panels below one title; ``folded`` ones load nothing until they are opened."""

    title: str
    panels: tuple[Panel, ...]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Which series a board is about."""

    matchers: str
    rank: str = ""
    """Matcher for metrics that every rank has."""

    def __call__(self, expression: str) -> str:
        """``expression`` with the matchers at each of its metrics."""
        return _METRIC.sub(self._scoped, expression)

    def _scoped(self, found: re.Match[str]) -> str:
        name, own = found["name"], found["own"] or ""
        job, _, run = self.matchers.rpartition(", ")
        if "run_id" in own:
            job, run = "", ""
        if name == "ALERTS":  # an alert may have lost the job
            job = ""
        parts = (job, run, self.rank if self._of_every_rank(name) and "rank" not in own else "", own)
        return f"{name}{{{', '.join(filter(None, parts))}}}"

    @staticmethod
    def _of_every_rank(name: str) -> bool:
        metric = METRIC_BY_NAME.get(re.sub("_(bucket|count|sum)$", "", name))
        if metric is None:
            return name.startswith("run_rank:")
        return "rank" in metric.labels and not metric.rank_0_alone


_METRIC: Final = re.compile(
    r"(?P<name>\b(?:rlhf_[a-z0-9_]+|run(?:_[a-z]+)?:rlhf_[a-z0-9_:]+|ALERTS)\b)"
    r"(?!:)(?:\{(?P<own>[^}]*)\})?"
)


class Variables(StrEnum):
    """Which variables a board has beside the data sources and the job."""

    FLEET = "fleet"
    """Team, and any number of runs."""
    RUN = "run"
    """One run, and its ranks."""


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard. ``algorithms``: runs that it offers; empty for all."""

    uid: str
    title: str
    description: str
    sections: tuple[Section, ...]
    variables: Variables = Variables.RUN
    algorithms: tuple[str, ...] = ()
    since: str = "now-1h"

    @property
    def scope(self) -> Scope:
        """The matchers of its queries."""
        if self.variables is Variables.FLEET:
            return Scope('job=~"$job", run_id=~"$run"')
        return Scope('job=~"$job", run_id="$run"', 'rank=~"$rank"')

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels, without the titles of sections."""
        return tuple(panel for section in self.sections for panel in section.panels)
