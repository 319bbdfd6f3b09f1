"""The report as JUnit XML, for CI: a test case per rule."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from rlhf_otel.catalogue.rules import RuleClass
from rlhf_otel.replay.engine import ReplayedAnomaly
from rlhf_otel.replay.reports.wording import Report, span, why


def junit(report: Report) -> str:
    """A rule that fired is a failed case, one that could not be judged a skipped one."""
    fired: dict[str, list[ReplayedAnomaly]] = {}
    for found in report.anomalies:
        fired.setdefault(found.rule, []).append(found)
    skipped = {rule: reason.reason for reason in report.unjudged for rule in reason.rules}
    rules = [rule for rule in report.replay.rules if rule.rule_class is not RuleClass.OUTSIDE]
    suite = ElementTree.Element(
        "testsuite",
        name="rlhf-otel replay",
        tests=str(len(rules)),
        failures=str(len(fired)),
        errors="0",
        skipped=str(sum(rule.name in skipped for rule in rules)),
    )
    for rule in rules:
        case = ElementTree.SubElement(suite, "testcase", classname=str(report.log.path), name=rule.name)
        for found in fired.get(rule.name, [])[:1]:
            message = f"{span(found)}: {found.summary}"
            failure = ElementTree.SubElement(case, "failure", type=rule.severity.value, message=message)
            failure.text = "\n".join(f"{span(each)}: {why(each)}" for each in fired[rule.name])
        if rule.name in skipped and rule.name not in fired:
            ElementTree.SubElement(case, "skipped", message=skipped[rule.name])
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
