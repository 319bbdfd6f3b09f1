"""CSV and JSON Lines: one row a log call, as trackers export them or people write them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf_otel import json_text
from rlhf_otel.errors import ReplayError
from rlhf_otel.replay.rows import Row, row_of

CSV = "csv"
JSONL = "jsonl"

_CHART_SUFFIXES = ("__MIN", "__MAX")
"""Columns of a W&B chart export beside the value."""


def json_objects(lines: Iterable[bytes], path: Path) -> Iterator[dict[str, Any]]:
    """The object of each line; blank lines and a torn last one are left out."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json_text.loads(line)
        except (ValueError, RecursionError) as error:
            if not line.endswith(b"\n"):
                return
            raise ReplayError(f"{path}, line {number}: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise ReplayError(f"{path}, line {number}: {found!r:.60} is no object")
        yield found


def jsonl_rows(lines: Iterable[bytes], path: Path) -> Iterator[Row]:
    """Rows of a JSON Lines file."""
    for found in json_objects(lines, path):
        yield row_of(found)


def csv_rows(lines: Iterable[bytes], path: Path) -> Iterator[Row]:
    """Rows of a CSV file with headings; the separator is a comma, a semicolon or a tab."""
    texts = (line.decode("utf-8-sig" if first else "utf-8", "replace") for first, line in _first(lines))
    heading = next(texts, None)
    if heading is None:
        raise ReplayError(f"{path} is empty")
    separator = max(",;\t", key=heading.count)
    reader = csv.reader(texts, delimiter=separator)
    columns = _columns(next(csv.reader([heading], delimiter=separator)), path)
    for cells in reader:
        yield row_of(
            {
                key: value
                for key, value in zip(columns, map(_cell, cells), strict=False)
                if key and value is not None
            }
        )


def _first(lines: Iterable[bytes]) -> Iterator[tuple[bool, bytes]]:
    return ((number == 0, line) for number, line in enumerate(lines))


def _columns(headings: list[str], path: Path) -> list[str]:
    """Keys of the columns, empty for those to leave out. A W&B chart's are called ``run - key``."""
    keys: list[str] = []
    runs: set[str] = set()
    for heading in headings:
        run, dash, key = heading.rpartition(" - ")
        if dash:
            runs.add(run)
        keys.append("" if heading.endswith(_CHART_SUFFIXES) else key.strip())
    if len(runs) > 1:
        raise ReplayError(f"{path} holds several runs ({', '.join(sorted(runs))}); export one at a time")
    return keys


def _cell(text: str) -> float | str | None:
    """A number where it is one (``nan`` and ``inf`` too); None for an empty cell."""
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return text


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested objects as paths: ``{"train": {"loss": 1}}`` as ``train/loss``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value
