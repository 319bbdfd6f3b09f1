"""Alertmanager's configuration: routes by severity, one page a run, inhibition from the rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rlhf_otel.catalogue.rules import FINISHED, RULES, Rule, RuleClass, Severity
from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate.yaml_text import dump

RUN: Final = 'run_id=~".+"'
"""``equal`` on a label that both sides lack matches, so that both sides must have a run."""


def config_file(
    timing: Timing, receiver_url: str = "http://localhost:9099", rules: Sequence[Rule] = RULES
) -> str:
    """A configuration whose three receivers post to ``receiver_url`` below /page, /ticket and /watchdog, as
    YAML."""
    content: dict[str, Any] = {
        "route": {
            "receiver": "ticket",
            "group_by": ["run_id"],
            # One scrape and two evaluations: a cause overtakes its effects.
            "group_wait": f"{3 * timing.scrape_s}s",
            "group_interval": "5m",  # the second engine's alert joins within 2 minutes: no second page for it
            "repeat_interval": "4h",
            "routes": [
                {"matchers": ['alertname="RLHFWatchdog"'], "receiver": "watchdog", "repeat_interval": "5m"},
                {"matchers": [f'severity="{Severity.CRITICAL}"'], "receiver": "page"},
                {"matchers": [f'severity="{Severity.INFO}"'], "receiver": "nobody"},
            ],
        },
        "inhibit_rules": inhibitions(rules),
        "receivers": [
            {
                "name": name,
                "webhook_configs": [{"url": f"{receiver_url}/{name}", "send_resolved": name != "watchdog"}],
            }
            for name in ("page", "ticket", "watchdog")
        ]
        + [{"name": "nobody"}],  # an info annotates boards and calls nobody
    }
    return dump(content)


def inhibitions(rules: Sequence[Rule] = RULES) -> list[dict[str, Any]]:
    """What each rule explains away, in the same run."""
    found: list[dict[str, Any]] = []
    for source in rules:
        targets = [rule.alert for rule in rules if _explains(source, rule)]
        if targets:
            found.append(
                {
                    "source_matchers": [f'alertname="{source.alert}"', RUN],
                    "target_matchers": [f'alertname=~"{"|".join(targets)}"', RUN],
                    "equal": ["run_id"],
                }
            )
    return found


def _explains(source: Rule, rule: Rule) -> bool:
    """Whether ``source`` explains ``rule`` away. A run that is over needs no ticket about its steps, but one about
    the checkpoint that it leaves; a page has been sent for a reason."""
    tickets = rule.rule_class is RuleClass.LEVEL and rule.severity is not Severity.CRITICAL
    outlasts = rule.signal.startswith("checkpoint_")
    return source.name in rule.inhibited_by or (source.name == FINISHED and tickets and not outlasts)
