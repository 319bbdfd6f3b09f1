"""A runbook per alert: meaning, impact, diagnosis, mitigation."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_otel.catalogue.impacts import impact_of
from rlhf_otel.catalogue.rules import RULES, NonFinite, Rule, RuleClass
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.detection.promql import Timing, compile_rule, series
from rlhf_otel.generate.docs import NOTE, evidence

_WHERE = {
    RuleClass.EVENT: "in process at the step itself; Prometheus alerts on that verdict",
    RuleClass.LEVEL: "in process and by Prometheus, on the same exported gauge",
    RuleClass.OUTSIDE: "by Prometheus alone",
}


def runbooks(rules: Sequence[Rule] = RULES) -> dict[str, str]:
    """Rule name to its runbook."""
    return {rule.name: _runbook(rule) for rule in rules}


def _runbook(rule: Rule) -> str:
    inhibited = ", ".join(f"[{name}]({name}.md)" for name in rule.inhibited_by) or "nothing"
    fires = "the expression below holds" if not rule.conditions else evidence(rule)
    return (
        f"{NOTE}# {rule.alert}\n\nSeverity: {rule.severity.value}. Judged {_WHERE[rule.rule_class]}.\n\n"
        f"## Meaning\n\n{rule.summary[0].upper()}{rule.summary[1:]}.\n\nFires when: {fires}.\n\n"
        f"## Impact\n\n{impact_of(rule)}\n\n"
        f"## Diagnosis\n\n{rule.cause}\n\n{_queries(rule)}"
        f"## Mitigation\n\n{rule.remedy}\n\n"
        f"## Expression\n\n{_expressions(rule)}\n\n{rule.source}\n\nExplained away by: {inhibited}.\n"
    )


def _expressions(rule: Rule) -> str:
    return "\n\n".join(
        f'`engine="{form.engine}"`:\n\n```promql\n{form.expression}\n```'
        for form in compile_rule(rule, Timing())
    )


def _queries(rule: Rule) -> str:
    """What to ask Prometheus about the run: what the rule compared, since when, and what is at stake."""
    if rule.name in ("Watchdog", "Drill"):
        return ""
    asked = [f'{name}{{run_id="RUN"{more}}}' for name, more in dict.fromkeys(_compared(rule))]
    if rule.conditions:
        asked.append(f'rlhf_anomaly_first_step{{run_id="RUN",rule="{rule.name}"}}')
    else:
        asked += ['rlhf_step{run_id="RUN"}', 'time() - rlhf_last_progress_timestamp_seconds{run_id="RUN"}']
        asked.append('sum by (rank, phase) (rate(rlhf_phase_seconds_total{run_id="RUN"}[5m]))')
    asked.append('rlhf_last_good_checkpoint_step{run_id="RUN"}')
    queries = "\n".join(asked)
    return f"```promql\n{queries}\n```\n\n"


def _compared(rule: Rule) -> list[tuple[str, str]]:
    """Metric and further matchers of all that the conditions read: the signal, and its exported statistic."""
    found = []
    for condition in rule.conditions:
        if isinstance(condition, NonFinite):
            found.append(("rlhf_signal_nonfinite_total", ""))
            continue
        found.append((SIGNAL_BY_NAME[condition.signal].metric, ""))
        if rule.rule_class is RuleClass.LEVEL:
            metric, brace, _ = series(condition).partition("{")
            found.append((metric, f',signal="{condition.signal}"' if brace else ""))
    return found
