"""Alertmanager's configuration: routes by severity, one page a run, inhibition from the rules."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from rlhf_otel.catalogue.rules import FINISHED, RULES, Rule, RuleClass, Severity
from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate.paging import Paging, local, receiver, settings
from rlhf_otel.generate.yaml_text import dump

RUN: Final = 'run_id=~".+"'
"""``equal`` on a label that both sides lack matches, so that both sides must have a run."""


TEMPLATES: Final = "templates/*.tmpl"
"""Beside the configuration."""
GROUP_INTERVAL: Final = "5m"
"""Before what has changed in a group is told: the second engine's alert joins within 2 minutes, and is no second page."""
NOBODY: Final = "nobody"
"""An info annotates boards and calls nobody."""


def config_file(
    timing: Timing,
    who: Paging | None = None,
    rules: Sequence[Rule] = RULES,
    group_interval: str = GROUP_INTERVAL,
) -> str:
    """The configuration for ``who`` is told, as YAML. Without it there are three local webhooks."""
    who = who or local()
    content: dict[str, Any] = {
        **({"global": found} if (found := settings(who)) else {}),
        "templates": [TEMPLATES],
        "route": {
            "receiver": "ticket",
            "group_by": ["run_id"],
            # One scrape and two evaluations: a cause overtakes its effects.
            "group_wait": f"{3 * timing.scrape_s}s",
            "group_interval": group_interval,
            "repeat_interval": "4h",
            "routes": _routes(who),
        },
        "inhibit_rules": inhibitions(rules),
        "receivers": _receivers(who),
    }
    return dump(content)


def template_file() -> str:
    """The texts that receivers show."""
    return (resources.files("rlhf_otel.generate") / "templates" / "rlhf.tmpl").read_text(encoding="utf-8")


def _routes(who: Paging) -> list[dict[str, Any]]:
    """By severity, and by team where the team is known; the dead man's switch hears every five minutes."""
    critical = [f'severity="{Severity.CRITICAL}"']
    teams = [
        {
            "matchers": [f'team="{team}"'],
            "receiver": f"{team}-ticket",
            "routes": [{"matchers": critical, "receiver": f"{team}-page"}],
        }
        for team in who.teams
    ]
    return [
        {"matchers": ['alertname="RLHFWatchdog"'], "receiver": "watchdog", "repeat_interval": "5m"},
        {"matchers": [f'severity="{Severity.INFO}"'], "receiver": NOBODY},
        *teams,
        {"matchers": critical, "receiver": "page"},
    ]


def _receivers(who: Paging) -> list[dict[str, Any]]:
    found = [
        receiver("page", who.default.page, who.secrets),
        receiver("ticket", who.default.ticket, who.secrets),
        receiver("watchdog", who.watchdog, who.secrets, resolved=False),
        {"name": NOBODY},
    ]
    for team, audience in who.teams.items():
        found.append(receiver(f"{team}-page", audience.page, who.secrets))
        found.append(receiver(f"{team}-ticket", audience.ticket, who.secrets))
    return found


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
