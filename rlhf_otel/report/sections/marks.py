"""The findings as marks on charts."""

from __future__ import annotations

from collections.abc import Collection

from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.report.document import Mark
from rlhf_otel.report.story import Finding, Story


def marks_on(story: Story, signals: Collection[str]) -> list[Mark]:
    """The findings that are about one of these signals."""
    return [mark_of(found) for found in story.findings if not signals_of(found).isdisjoint(signals)]


def mark_of(found: Finding) -> Mark:
    """A finding as a mark."""
    anomaly = found.anomaly
    return Mark(anomaly.first_step, found.last_step, anomaly.rule, anomaly.severity.value)


def signals_of(found: Finding) -> set[str]:
    """What a finding is about: its signal, and what else its rule compares."""
    rule = RULE_BY_NAME.get(found.anomaly.rule)
    return {found.anomaly.signal, *(rule.needs if rule is not None else ())}
