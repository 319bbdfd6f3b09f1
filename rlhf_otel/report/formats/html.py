"""One HTML file that needs no network: Plotly and the charts' data lie packed in it.

All that comes from a run is text: it is escaped, and the page's content security policy, which names the two scripts
by their hashes, would run nothing else, and fetch nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from rlhf_otel.report.document import Block, Card, Chart, Document, Paragraph, Section, Table
from rlhf_otel.report.formats.plotly_script import packed, plotly, policy_hash

_ASSETS: Final = Path(__file__).parent.parent / "assets"
_COURSE: Final = "course"


def html(document: Document) -> str:
    """The whole page. Raises ReportError without the extra ``[report]``."""
    program, program_hash = plotly()
    style, script = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = _Page()
    body = "".join(page.section(section) for section in document.sections)
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src {program_hash} {policy_hash(script.encode())}"
    )
    links = "".join(f'<a href="#{s.key}">{escape(s.title)}</a>' for s in document.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(document.title)}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{escape(document.title)}</h1>
<p class="subtitle">{escape(document.subtitle)}</p>
<p class="verdict {escape(document.severity)}">{escape(document.verdict)}</p>
<nav>{links}</nav>
</header>
<main>
{body}</main>
<footer>Written by rlhf-otel. <noscript>The charts need JavaScript; texts and tables do not.</noscript></footer>
<script type="application/octet-stream" id="plotly">{program}</script>
<script type="application/octet-stream" id="charts">{packed(page.charts_as_json())}</script>
<script>{script}</script>
</body>
</html>
"""


class _Page:
    """Writes blocks, and collects the charts that they hold."""

    def __init__(self) -> None:
        self._charts: list[dict[str, Any]] = []

    def charts_as_json(self) -> bytes:
        """The charts in the order of their places."""
        return json.dumps(self._charts, separators=(",", ":"), allow_nan=False).encode()

    def section(self, section: Section) -> str:
        """Neighbouring charts share a grid."""
        parts = [f'<section id="{section.key}">\n<h2>{escape(section.title)}</h2>\n']
        for is_chart, blocks in groupby(section.blocks, lambda block: isinstance(block, Chart)):
            content = "".join(self._block(block) for block in blocks)
            parts.append(f'<div class="charts">\n{content}</div>\n' if is_chart else content)
        return "".join([*parts, "</section>\n"])

    def _block(self, block: Block) -> str:
        if isinstance(block, Paragraph):
            return f"<p>{escape(block.text)}</p>\n"
        if isinstance(block, Table):
            return _table(block)
        return self._card(block) if isinstance(block, Card) else self._chart(block)

    def _chart(self, chart: Chart) -> str:
        self._charts.append(_plain(chart))
        about = f"<span>{escape(chart.about)}</span>" if chart.about else ""
        place = f'<div class="plot" data-chart="{len(self._charts) - 1}"></div>'
        return f"<figure><figcaption>{escape(chart.title)}{about}</figcaption>{place}</figure>\n"

    def _card(self, card: Card) -> str:
        fields = "".join(f"<dt>{escape(label)}</dt><dd>{escape(text)}</dd>" for label, text in card.fields)
        charts = "".join(map(self._chart, card.charts))
        grid = f'<div class="charts">{charts}</div>' if charts else ""
        return f'<div class="card {escape(card.severity)}"><h3>{escape(card.title)}</h3><dl>{fields}</dl>{grid}</div>\n'


def _table(table: Table) -> str:
    title = table.title or "Table"
    head = "".join(f"<th>{escape(column)}</th>" for column in table.columns)
    head = f"<thead><tr>{head}</tr></thead>" if any(table.columns) else ""
    rows = "".join(f"<tr>{''.join(_cells(table.columns, row))}</tr>\n" for row in table.rows)
    content = f'<div class="wide"><table>{head}<tbody>\n{rows}</tbody></table></div>\n'
    if table.folded:
        return f"<details><summary>{escape(title)}</summary>{content}</details>\n"
    return f"<h3>{escape(table.title)}</h3>\n{content}" if table.title else content


def _cells(columns: Sequence[str], row: Sequence[str]) -> Iterator[str]:
    for column, value in zip(columns, row, strict=True):
        kind = ' class="course"' if column == _COURSE else ""
        yield f"<td{kind}>{escape(value)}</td>"


def _plain(chart: Chart) -> dict[str, Any]:
    return {
        "kind": chart.kind,
        "unit": chart.unit,
        "across": chart.across,
        "lines": [
            [line.name, [_number(step) for step in thin.steps], [_number(value) for value in thin.values]]
            for line in chart.lines
            for thin in (line.curve.thinned(),)
        ],
        "marks": [[mark.first, mark.last, mark.label, mark.severity] for mark in chart.marks],
    }


def _number(value: float) -> float | None:
    """Six digits; a gap for what is no number."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if value - value == 0.0 else None
