"""What a report consists of, whatever it is written as: sections of paragraphs, tables, charts and findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf_otel.report.curves import Curve


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of plain text. A table that is long is folded away where the format can."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One line, or the bars, of a chart."""

    name: str
    curve: Curve


@dataclass(frozen=True, slots=True)
class Mark:
    """Steps of a chart to look at, such as those of a finding."""

    first: int
    last: int
    label: str
    severity: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over steps; ``kind`` is ``lines``, ``stack`` (bars on each other) ``held`` (values
    that hold until the next) or ``bars`` (of histograms)."""

    title: str
    lines: Sequence[Line]
    marks: Sequence[Mark] = ()
    unit: str = ""
    kind: str = "lines"
    about: str = ""
    """What it shows, for who does not know the quantity."""
    across: str = "step"
    """What the steps of its curves are."""


@dataclass(frozen=True, slots=True)
class Card:
    """A finding: what, and fields such as why, cause and what to do."""

    title: str
    severity: str
    fields: Sequence[tuple[str, str]]
    charts: Sequence[Chart] = ()


Block = Paragraph | Table | Chart | Card


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a report, with the same content as plain data."""

    key: str
    """Its name in JSON, and as an anchor."""
    title: str
    blocks: Sequence[Block]
    data: Any = None


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    verdict: str
    """What a reader should know who reads nothing else."""
    severity: str
    """Of the worst finding, or ``good``."""
    sections: Sequence[Section] = field(default_factory=tuple)
