"""Numbers, times and names for people."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.replay.reports import wording

MAX_CELL: Final = 300
"""Of a value in a table."""


def number(value: float | None) -> str:
    """A number for people: 4 digits, or more before the point."""
    if value is not None and 1e4 <= abs(value) < 1e9:
        return f"{value:.0f}"
    return wording.number(value)


def moment(seconds: float | None) -> str:
    """A Unix time in UTC."""
    if seconds is None:
        return "unknown"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def duration(seconds: float | None) -> str:
    """A time span."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def title_of(signal: str) -> str:
    """A signal's name, to be read."""
    words = signal.replace("_", " ")
    return "KL" + words[2:] if words.startswith("kl ") else words[:1].upper() + words[1:]


def unit_of(signal: str) -> str:
    """Its unit, where that says something."""
    known = SIGNAL_BY_NAME.get(signal)
    return "" if known is None or known.unit == "1" else known.unit


def about(signal: str) -> str:
    """What it is, in a sentence."""
    known = SIGNAL_BY_NAME.get(signal)
    return known.help if known is not None else ""


def share(part: float, whole: float) -> str:
    """A part in percent."""
    return f"{part / whole:.1%}" if whole > 0 else "unknown"


def change(before: float | None, after: float | None) -> str:
    """From what to what."""
    return f"{number(before)} → {number(after)}"


def cell(value: Any) -> str:
    """A value of a configuration."""
    text = number(value) if isinstance(value, float) and value != round(value, 12) else str(value)
    return text if len(text) <= MAX_CELL else f"{text[: MAX_CELL - 1]}…"


def listed(names: Iterable[str]) -> str:
    """Names in a row."""
    return ", ".join(names)
