"""The report for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.replay.coverage import Unjudged, partly_unwatched
from rlhf_otel.replay.engine import ReplayedAnomaly
from rlhf_otel.replay.reports.wording import USUAL, Report, headline, meanings, notes, span, verdict, why

WIDTH: Final = 110
MAX_UNKNOWN_KEYS: Final = 8
MAX_REASON: Final = 44


def text(report: Report) -> str:
    """For a terminal."""
    parts = [headline(report), verdict(report)]
    parts += ["\n".join(_wrapped(f"Note: {note}")) for note in notes(report)]
    for found in _repeats_together(report.anomalies):
        parts.append("\n" + "\n".join(_text_of(found)))
    if any(found.anomaly.baseline is not None for found in report.anomalies):
        parts.append("\n" + "\n".join(_wrapped(USUAL)))
    parts.append("\n" + "\n".join(_text_unjudged(report)))
    return "\n".join(parts) + "\n"


def block(found: ReplayedAnomaly) -> str:
    """One anomaly, while it is not known yet how long it lasts."""
    return "\n".join(_text_of(_Repeated(found, [])))


@dataclass(frozen=True, slots=True)
class _Repeated:
    """A rule's anomalies: the first in full, the others by their steps."""

    first: ReplayedAnomaly
    again: list[ReplayedAnomaly]


def _repeats_together(anomalies: list[ReplayedAnomaly]) -> list[_Repeated]:
    """By severity, then in the order of firing."""
    order = list(Severity)
    by_rule: dict[str, _Repeated] = {}
    for found in anomalies:
        if found.rule in by_rule:
            by_rule[found.rule].again.append(found)
        else:
            by_rule[found.rule] = _Repeated(found, [])
    return sorted(by_rule.values(), key=lambda each: order.index(each.first.anomaly.severity))


def _text_of(repeated: _Repeated) -> Iterator[str]:
    found = repeated.first
    anomaly = found.anomaly
    yield f"{anomaly.severity.value.upper()} {anomaly.rule}, {span(found)}"
    yield f"  {found.summary}"
    yield from _field("why", why(found))
    for meaning in meanings(found):
        yield from _field("", meaning)
    yield from _field("cause", anomaly.cause)
    yield from _field("to do", anomaly.remedy)
    if repeated.again:
        yield from _field("again", ", ".join(span(other) for other in repeated.again))


def _field(label: str, content: str) -> Iterator[str]:
    return iter(
        textwrap.wrap(f"{label:<7}{content}", WIDTH - 2, initial_indent="  ", subsequent_indent=" " * 9)
    )


def _text_unjudged(report: Report) -> Iterator[str]:
    """What the silence of the other rules means."""
    judged = [
        rule.name
        for rule in report.replay.rules
        if not any(rule.name in reason.rules for reason in report.unjudged)
    ]
    fired = {found.rule for found in report.anomalies}
    silent = [name for name in judged if name not in fired]
    if silent:
        yield from _wrapped(f"Judged without a finding: {', '.join(silent)}.")
    missing = partly_unwatched(report.replay, report.log)
    if missing and "NonFinite" in judged:
        yield from _wrapped(f"NaN would not have been seen in: {', '.join(missing)} (not in the log).")
    yield from _text_lacking([reason for reason in report.unjudged if reason.about_log])
    others = [f"{len(each.rules)} ({each.reason})" for each in report.unjudged if not each.about_log]
    if others:
        yield from _wrapped(f"Rules that this log cannot show: {', '.join(others)}.")
    yield from _text_unknown(report.log.unknown)


def _text_lacking(reasons: Sequence[Unjudged]) -> Iterator[str]:
    """What another log of the run could have told."""
    if reasons:
        yield "Not judged:"
    width = min(MAX_REASON, max((len(reason.reason) for reason in reasons), default=0))
    for reason in reasons:
        yield from _row(reason.reason, ", ".join(reason.rules), width)


def _row(label: str, content: str, width: int) -> Iterator[str]:
    """A row of two columns; a label that is too long has a line of its own."""
    indent = " " * (width + 4)
    if len(label) > width:
        yield f"  {label}"
        label = ""
    yield from textwrap.wrap(
        content,
        WIDTH,
        initial_indent=f"  {label:<{width}}  ",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def _text_unknown(unknown: dict[str, int]) -> Iterator[str]:
    """Keys that no rule looks at: a reader should know that, above all where they hold NaN."""
    strange = [f"{key} ({rows} rows)" for key, rows in unknown.items() if rows]
    if strange:
        yield from _wrapped(f"NaN or infinite in keys that no rule watches: {', '.join(strange)}.")
    if unknown:
        shown = ", ".join(list(unknown)[:MAX_UNKNOWN_KEYS])
        more = f" and {len(unknown) - MAX_UNKNOWN_KEYS} more" if len(unknown) > MAX_UNKNOWN_KEYS else ""
        yield from _wrapped(f"Not known, so judged by no rule: {shown}{more}.")


def _wrapped(content: str, indent: str = "") -> Iterator[str]:
    return iter(textwrap.wrap(content, WIDTH, subsequent_indent=indent, break_on_hyphens=False))
