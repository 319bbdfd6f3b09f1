"""Prometheus alerting rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.catalogue.rules import RULES, Rule, RuleClass
from rlhf_otel.detection.promql import AlertForm, Timing, compile_rule
from rlhf_otel.generate.yaml_text import dump

RUNBOOK_BASE: Final = "docs/runbooks"
"""Prefix of runbook links: the pages of this repository. Set it to where your people can open them."""


def rules_file(timing: Timing, runbook_base: str = RUNBOOK_BASE, rules: Sequence[Rule] = RULES) -> str:
    """All alerting rules, one group per rule class, as YAML."""
    groups = []
    for rule_class in RuleClass:
        alerts = [
            alert(form, runbook_base) for form in forms(timing, rules) if form.rule.rule_class is rule_class
        ]
        groups.append({"name": f"rlhf-{rule_class}", "rules": alerts})
    return dump({"groups": groups})


def forms(timing: Timing, rules: Sequence[Rule] = RULES) -> list[AlertForm]:
    """Every alert of every rule."""
    return [form for rule in rules for form in compile_rule(rule, timing)]


def alert(form: AlertForm, runbook_base: str) -> dict[str, Any]:
    """One alerting rule."""
    content: dict[str, Any] = {"alert": form.rule.alert, "expr": form.expression}
    if form.hold:
        content["for"] = form.hold
    if form.keep_firing:
        content["keep_firing_for"] = form.keep_firing
    content["labels"] = labels(form)
    content["annotations"] = annotation_texts(form.rule, runbook_base)
    return content


def labels(form: AlertForm) -> dict[str, str]:
    """The alert's own labels."""
    return {"severity": form.rule.severity.value, "rule": form.rule.name, "engine": form.engine}


def annotation_texts(rule: Rule, runbook_base: str) -> dict[str, str]:
    """What the page says. ``$labels.rule`` is empty in annotations of the alert that sets it, hence the
    constants."""
    texts = {
        "summary": f"Run {{{{ $labels.run_id }}}}: {rule.summary}",
        "description": f"{rule.cause} What to do: {rule.remedy}",
        "runbook_url": f"{runbook_base}/{rule.name}.md",
    }
    if rule.rule_class is not RuleClass.OUTSIDE:
        texts["observed"] = _observed(rule)
        texts["trace_id"] = _trace_id(rule)
    elif rule.promql is not None and rule.promql.observed:
        texts["observed"] = rule.promql.observed
    if rule.name == "Watchdog":
        texts["summary"] = rule.summary[0].upper() + rule.summary[1:]
    return texts


def _observed(rule: Rule) -> str:
    number = '{{ . | first | value | printf "%.4g" }}'
    return (
        _with("rlhf_anomaly_value", rule, '{{ . | first | label "signal" }} is ' + number)
        + _with("rlhf_anomaly_usual_value", rule, f", usually {number}")
        + _with("rlhf_anomaly_first_step", rule, ', since step {{ . | first | value | printf "%.0f" }}')
    )


def _trace_id(rule: Rule) -> str:
    return _with("rlhf_anomaly_last_timestamp_seconds", rule, '{{ . | first | label "trace_id" }}')


def _with(metric: str, rule: Rule, text: str) -> str:
    """``text`` where the run has that series about the rule, else nothing."""
    query = f'printf "{metric}{{run_id=%q,rule=%q}}" $labels.run_id "{rule.name}" | query'
    return f"{{{{ with {query} }}}}{text}{{{{ end }}}}"
