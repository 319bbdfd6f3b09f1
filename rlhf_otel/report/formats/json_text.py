"""JSON, for programs: each section's content as plain data."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from rlhf_otel.report.document import Document

VERSION: Final = 1
"""A change that breaks readers raises it."""


def as_json(document: Document) -> str:
    """An object. Numbers that are not finite are the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    content = {
        "version": VERSION,
        "title": document.title,
        "verdict": document.verdict,
        "worst": document.severity,
        **{section.key: section.data for section in document.sections},
    }
    return json.dumps(_plain(content), indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
