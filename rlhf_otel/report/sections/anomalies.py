"""The rules that fired: evidence, cause, what to do, and the curve around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.replay.engine import plain
from rlhf_otel.report.document import Block, Card, Chart, Line, Mark, Paragraph, Section
from rlhf_otel.report.sections.marks import mark_of
from rlhf_otel.report.story import Finding, Story
from rlhf_otel.report.words import listed, title_of, unit_of

AROUND: Final = 60
"""Steps before and after a finding that its chart shows, at least."""
MAX_CARDS: Final = 40
MAX_AGAIN: Final = 12


def section(story: Story) -> Section:
    """Also where nothing fired: that is news, too."""
    by_rule: dict[str, list[Finding]] = {}
    for found in story.findings:
        by_rule.setdefault(found.anomaly.rule, []).append(found)
    blocks: list[Block] = [_card(story, same) for same in list(by_rule.values())[:MAX_CARDS]]
    if not blocks:
        blocks.append(Paragraph("No rule fired."))
    if len(by_rule) > MAX_CARDS:
        blocks.append(Paragraph(f"{len(by_rule) - MAX_CARDS} more rules fired; the JSON report has all."))
    return Section("anomalies", "Anomalies", blocks, [_plain(found) for found in story.findings])


def _card(story: Story, same: Sequence[Finding]) -> Card:
    """A rule's findings: the first in full, the others by their steps."""
    found, again = same[0], same[1:]
    anomaly = found.anomaly
    fields = [("What", found.summary), ("Why", found.why)]
    if anomaly.detail and anomaly.detail not in found.why:
        fields.append(("Detail", anomaly.detail))
    fields += [("Cause", anomaly.cause), ("What to do", anomaly.remedy)]
    if found.actions:
        fields.append(("Done", listed(found.actions)))
    if again:
        more = f" and {len(again) - MAX_AGAIN} more" if len(again) > MAX_AGAIN else ""
        fields.append(("Again", listed(each.span for each in again[:MAX_AGAIN]) + more))
    title = f"{anomaly.severity.value.upper()} {anomaly.rule}, {found.span}"
    return Card(title, anomaly.severity.value, fields, _charts(story, same))


def _charts(story: Story, same: Sequence[Finding]) -> list[Chart]:
    """The signal over the steps around."""
    signal = same[0].anomaly.signal
    curve = story.curves.get(signal)
    if curve is None or not (curve.moves() or curve.nonfinite_steps()):
        return []
    marks: list[Mark] = [mark_of(found) for found in same]
    first, last = min(mark.first for mark in marks), max(mark.last for mark in marks)
    margin = max(AROUND, last - first)
    shown = curve.within(first - margin, last + margin)
    return [Chart(title_of(signal), (Line(title_of(signal), shown),), marks, unit_of(signal))]


def _plain(found: Finding) -> dict[str, Any]:
    told = plain(found.anomaly, found.last_step, found.summary)
    return {**told, "why": found.why, "actions": list(found.actions)}
