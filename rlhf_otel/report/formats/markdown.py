"""Markdown, for an issue, a pull request or a model card. Charts are lines of text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from rlhf_otel.report.document import Block, Card, Chart, Document, Paragraph, Table
from rlhf_otel.report.words import number

_SPECIAL: Final = re.compile(r"([\\`*_<>\[\]|#~&])")
_IN_TABLE_ROWS: Final = 60


def markdown(document: Document) -> str:
    """The whole report."""
    lines = [
        f"# {_text(document.title)}",
        "",
        _text(document.subtitle),
        "",
        f"**{_text(document.verdict)}**",
        "",
    ]
    for section in document.sections:
        lines += [f"## {_text(section.title)}", ""]
        for block in section.blocks:
            lines += [*_block(block), ""]
    return "\n".join(lines).rstrip() + "\n"


def _block(block: Block) -> Iterator[str]:
    if isinstance(block, Paragraph):
        yield _text(block.text)
    elif isinstance(block, Table):
        yield from _table(block)
    elif isinstance(block, Card):
        yield f"### {_text(block.title)}"
        yield ""
        yield from (f"- **{_text(label)}**: {_text(text)}" for label, text in block.fields)
        for chart in block.charts:
            yield from _chart(chart)
    else:
        yield from _chart(block)


def _chart(chart: Chart) -> Iterator[str]:
    """Each line as a sparkline, with its first and last value."""
    unit = f" ({_text(chart.unit)})" if chart.unit else ""
    for line in chart.lines:
        name = chart.title if len(chart.lines) == 1 else f"{chart.title}, {line.name}"
        spark = line.curve.sparkline()
        yield f"- {_text(name)}{unit}: `{spark}` {number(line.curve.first())} → {number(line.curve.last())}"


def _table(table: Table) -> Iterator[str]:
    if table.title:
        yield f"### {_text(table.title)}"
        yield ""
    yield _row(table.columns)
    yield _row(["---"] * len(table.columns), escape=False)
    yield from (_row(row) for row in table.rows[:_IN_TABLE_ROWS])
    if len(table.rows) > _IN_TABLE_ROWS:
        yield ""
        yield f"{len(table.rows) - _IN_TABLE_ROWS} more rows are in the other formats."


def _row(cells: object, escape: bool = True) -> str:
    assert isinstance(cells, tuple | list)
    return f"| {' | '.join(_text(cell) if escape else cell for cell in cells)} |"


def _text(text: str) -> str:
    """Nothing in it is markup, and it stays in its line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
