"""What a replay found, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rlhf_otel.replay.reports.json_text import as_json, json_line
from rlhf_otel.replay.reports.junit import junit
from rlhf_otel.replay.reports.markdown import markdown
from rlhf_otel.replay.reports.text import block, text
from rlhf_otel.replay.reports.wording import Report

__all__ = ["FORMATS", "Report", "as_json", "block", "json_line", "junit", "markdown", "text"]

FORMATS: Final[dict[str, Callable[[Report], str]]] = {
    "text": text,
    "json": as_json,
    "markdown": markdown,
    "junit": junit,
}
