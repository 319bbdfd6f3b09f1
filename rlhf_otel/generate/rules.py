"""Prometheus alerting rules: as groups, as resources of the Prometheus operator, and as data of the mixin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.catalogue.rules import RULES, Rule, RuleClass
from rlhf_otel.catalogue.signals import MONITORED
from rlhf_otel.detection.promql import AlertForm, Timing, compile_rule, select
from rlhf_otel.generate import recording
from rlhf_otel.generate.page import TRACE_ID, Links, labels, texts
from rlhf_otel.generate.yaml_text import dump

RESOURCE_LABELS: Final = {"app.kubernetes.io/name": "rlhf-otel", "role": "alert-rules"}
MIXIN_LINKS: Final = Links("$(runbooks)", "$(boards)", f"$(trace){TRACE_ID}$(traceEnd)")
"""What the mixin replaces."""


def rules_file(
    timing: Timing, links: Links | None = None, rules: Sequence[Rule] = RULES, selector: str = ""
) -> str:
    """All alerting rules, one group per rule class, as YAML. ``selector`` narrows every series of ours, such as
    ``cluster="a"``."""
    return dump({"groups": groups(timing, links or Links(), rules, selector)})


def resources_file(timing: Timing, links: Links | None = None, rules: Sequence[Rule] = RULES) -> str:
    """The same, and the recording rules, as ``PrometheusRule`` resources, one a group: ``kubectl apply`` keeps a copy of
    each resource in an annotation, which may have 256 KiB."""
    resources = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": group["name"], "labels": RESOURCE_LABELS},
            "spec": {"groups": [group]},
        }
        for group in (*groups(timing, links or Links(), rules), *recording.groups(timing))
    ]
    first, *others = resources
    return dump(first) + "".join(dump(other, header="---\n") for other in others)


def mixin_file(timing: Timing) -> str:
    """The same as JSON, with marks for what ``alerts/mixin`` lets its user configure."""
    return (
        json.dumps({"groups": groups(timing, MIXIN_LINKS, RULES, recording.MIXIN_SELECTOR)}, indent=1) + "\n"
    )


def groups(timing: Timing, links: Links, rules: Sequence[Rule], selector: str = "") -> list[dict[str, Any]]:
    """The rule groups: one per rule class, and one of what only a `RewardModelMonitor` measures."""
    found: dict[str, list[dict[str, Any]]] = {f"rlhf-{rule_class}": [] for rule_class in RuleClass}
    for form in forms(timing, rules):
        found.setdefault(_group_of(form.rule), []).append(alert(form, links, selector))
    return [{"name": name, "rules": alerts} for name, alerts in found.items()]


def _group_of(rule: Rule) -> str:
    return f"rlhf-{rule.rule_class}{'-reward-model' if rule.signal in MONITORED else ''}"


def forms(timing: Timing, rules: Sequence[Rule] = RULES) -> list[AlertForm]:
    """Every alert of every rule."""
    return [form for rule in rules for form in compile_rule(rule, timing)]


def alert(form: AlertForm, links: Links, selector: str = "") -> dict[str, Any]:
    """One alerting rule."""
    content: dict[str, Any] = {"alert": form.rule.alert, "expr": select(form.expression, selector)}
    if form.hold:
        content["for"] = form.hold
    if form.keep_firing:
        content["keep_firing_for"] = form.keep_firing
    content["labels"] = labels(form)
    content["annotations"] = texts(form.rule, links)
    return content
