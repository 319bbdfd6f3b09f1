"""A run that has finished needs no ticket about its steps; a page was sent for a reason."""

from __future__ import annotations

import re

from rlhf_otel.catalogue.rules import FINISHED, RULE_BY_NAME, RuleClass, Severity
from rlhf_otel.generate import alertmanager


def silenced() -> set[str]:
    """Names of the rules that the end of a run silences."""
    alert = f'alertname="{RULE_BY_NAME[FINISHED].alert}"'
    (inhibition,) = [each for each in alertmanager.inhibitions() if alert in each["source_matchers"]]
    assert inhibition["equal"] == ["run_id"]
    return set(re.findall(r"RLHF(\w+)", inhibition["target_matchers"][0]))


def test_tickets_are_silenced() -> None:
    assert {"TruncationHigh", "ThroughputRegression", "HostMemoryLeak"} <= silenced()


def test_pages_and_the_end_itself_are_not() -> None:
    kept = {
        rule.name
        for rule in RULE_BY_NAME.values()
        if rule.severity is Severity.CRITICAL or rule.rule_class is not RuleClass.LEVEL
    }
    assert not silenced() & kept
