"""What an alert says: annotations and labels, as templates that Prometheus fills in when it fires.

``$labels.rule`` is empty in annotations of the alert that sets it, hence the rule's name as a constant. A template
may ask Prometheus; joining what it finds to the alert's own labels would change the alert's identity instead.
Every alert says what broke, in numbers, since when and for whom; one that wakes somebody up says too how the run
is, and what is at stake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rlhf_otel.catalogue.recorded import BOARD_OF_RUN, SEES_A_GPU
from rlhf_otel.catalogue.rules import Rule, RuleClass, Severity
from rlhf_otel.catalogue.run_boards import GROUPS
from rlhf_otel.detection.promql import AlertForm

MOMENT: Final = "2006-01-02 15:04:05 UTC"
"""Go's way to write a format."""
TRACE_ID: Final = "{trace_id}"
AROUND_S: Final = 1800
"""What a link to a board shows on each side of the first bad step."""
KNOWN_FOR: Final = "2h"
"""How long a run that is no longer scraped is still described."""
_EXPLORE: Final = (
    "/explore?schemaVersion=1&panes=%7B%22t%22%3A%7B%22datasource%22%3A%22rlhf-tempo%22%2C%22queries%22%3A%5B%7B"
    "%22refId%22%3A%22A%22%2C%22datasource%22%3A%7B%22type%22%3A%22tempo%22%2C%22uid%22%3A%22rlhf-tempo%22%7D%2C"
    f"%22queryType%22%3A%22traceql%22%2C%22query%22%3A%22{TRACE_ID}%22%7D%5D%7D%7D"
)
"""Grafana's own page of a trace, in the data source that ``deploy/`` provisions."""


@dataclass(frozen=True, slots=True)
class Links:
    """Where a page's links lead; the defaults are this repository's pages and the Grafana of ``deploy/``."""

    runbooks: str = "docs/runbooks"
    """Prefix of runbooks: set it to where your people can open them."""
    boards: str = "http://localhost:3000"
    """Grafana's address; empty for no link."""
    traces: str = f"http://localhost:3000{_EXPLORE}"
    """Address of a trace with ``{trace_id}`` in it; empty for no link."""


def labels(form: AlertForm) -> dict[str, str]:
    """The alert's own labels. The team's, which routes need, is the target's or else the run's."""
    found = {"severity": form.rule.severity.value, "rule": form.rule.name, "engine": form.engine}
    if form.rule.name == "Drill":
        found["severity"] = "{{ $labels.severity }}"  # that of the route which is tried
    if _concerns_a_run(form.rule):
        asked = _first(
            f'last_over_time(rlhf_run_info{{run_id=%q,team!=""}}[{KNOWN_FOR}])',
            '{{ . | first | label "team" }}',
        )
        found["team"] = f"{{{{ if $labels.team }}}}{{{{ $labels.team }}}}{{{{ else }}}}{asked}{{{{ end }}}}"
    return found


def texts(rule: Rule, links: Links) -> dict[str, str]:
    """The alert's annotations."""
    found = {
        "summary": f"Run {{{{ $labels.run_id }}}}: {rule.summary}",
        "description": f"{rule.cause} What to do: {rule.remedy}",
        "runbook_url": f"{links.runbooks}/{rule.name}.md",
    }
    if not _concerns_a_run(rule):
        found["summary"] = rule.summary[0].upper() + rule.summary[1:]
        return found
    if rule.rule_class is not RuleClass.OUTSIDE:
        found["observed"] = _observed(rule)
        found["trace_id"] = _trace(rule, TRACE_ID)
    elif rule.promql is not None and rule.promql.observed:
        found["observed"] = rule.promql.observed
        if rule.promql.stacks:
            found["stacks"] = rule.promql.stacks
    found |= _links(rule, links)
    found["owner"] = _first(
        f'last_over_time(rlhf_run_info{{run_id=%q,owner!=""}}[{KNOWN_FOR}])',
        '{{ . | first | label "owner" }}',
    )
    return found | (_stakes() if rule.severity is Severity.CRITICAL else {})


def _concerns_a_run(rule: Rule) -> bool:
    return rule.name != "Watchdog"


def _observed(rule: Rule) -> str:
    number = '{{ . | first | value | printf "%.4g" }}'
    return (
        _of_rule("rlhf_anomaly_value", rule, '{{ . | first | label "signal" }} is ' + number)
        + _of_rule("rlhf_anomaly_usual_value", rule, f", usually {number}")
        + _of_rule("rlhf_anomaly_first_step", rule, ', since step {{ . | first | value | printf "%.0f" }}')
        + _of_rule(
            "rlhf_anomaly_first_timestamp_seconds",
            rule,
            f' ({{{{ (. | first | value | toTime).UTC.Format "{MOMENT}" }}}})',
        )
    )


def _trace(rule: Rule, address: str) -> str:
    """``address`` with the id of the trace, where there is one."""
    before, _, after = address.partition(TRACE_ID)
    found = f'{{{{ with . | first | label "trace_id" }}}}{before}{{{{ . }}}}{after}{{{{ end }}}}'
    return _of_rule("rlhf_anomaly_last_timestamp_seconds", rule, found)


def _links(rule: Rule, links: Links) -> dict[str, str]:
    found: dict[str, str] = {}
    if links.boards:
        board = _first(
            f"last_over_time({BOARD_OF_RUN}{{run_id=%q}}[{KNOWN_FOR}])",
            '{{ . | first | label "board" }}',
            GROUPS.uid,
        )
        found["board_url"] = (
            f"{links.boards}/d/{board}?var-run={{{{ $labels.run_id | urlquery }}}}{_period(rule)}"
        )
    if links.traces and rule.rule_class is not RuleClass.OUTSIDE:
        found["trace_url"] = _trace(rule, links.traces)
    return found


def _period(rule: Rule) -> str:
    """The board's time range, around the first bad step or the last good one; in milliseconds."""
    if rule.rule_class is RuleClass.OUTSIDE:
        moment = f"max(last_over_time(rlhf_last_progress_timestamp_seconds{{run_id=%q}}[{KNOWN_FOR}]))"
    else:
        moment = f"max(rlhf_anomaly_first_timestamp_seconds{{run_id=%q,rule='{rule.name}'}})"
    return "".join(
        _first(f"1000 * ({moment} {sign} {AROUND_S})", f'&{name}={{{{ . | first | value | printf "%.0f" }}}}')
        for name, sign in (("from", "-"), ("to", "+"))
    )


def _stakes() -> dict[str, str]:
    """How the run is, what would be lost, and what has been done."""
    progress = f"last_over_time(rlhf_last_progress_timestamp_seconds{{run_id=%q}}[{KNOWN_FOR}])"
    end = f"last_over_time(rlhf_run_end_timestamp_seconds{{run_id=%q}}[{KNOWN_FOR}])"
    good = f"last_over_time(rlhf_last_good_checkpoint_timestamp_seconds{{run_id=%q}}[{KNOWN_FOR}])"
    started = f"last_over_time(rlhf_process_start_time_seconds{{run_id=%q}}[{KNOWN_FOR}])"
    hours = (
        f"(count(max by (rank) ({progress})) * (max({progress}) - (max({good}) or max({started}))) / 3600)"
    )
    gpus = " or ".join(f"last_over_time({name}{{run_id=%q}}[{KNOWN_FOR}])" for name in SEES_A_GPU)
    gpus = f"count({gpus})"
    return {
        "state": _first(
            f"topk(1, {end} >= on (run_id) group_left () max by (run_id) ({progress}))",
            '{{ . | first | label "outcome" }}',
            _first(
                "rlhf_step{run_id=%q}",
                'still running, at step {{ . | first | value | printf "%.0f" }}',
                "gone",
            ),
        ),
        "gpu_hours_at_risk": _first(
            f"{hours} and on () {gpus}",
            '{{ . | first | value | printf "%.2f" }}',
            _first(
                hours,
                'none, since no rank sees a GPU ({{ . | first | value | printf "%.2f" }} hours of ranks)',
                "unknown",
            ),
        ),
        "last_good_checkpoint": _first(
            f"last_over_time(rlhf_last_good_checkpoint_step{{run_id=%q}}[{KNOWN_FOR}])",
            'step {{ . | first | value | printf "%.0f" }}',
            "none in this attempt",
        ),
        "action_taken": _first(
            f"last_over_time(rlhf_actions_total{{run_id=%q}}[{KNOWN_FOR}]) > 0",
            '{{ range $i, $each := sortByLabel "action" . }}{{ if $i }}, {{ end }}'
            "{{ .Labels.action }} ({{ .Labels.outcome }}){{ end }}",
            "none",
        ),
    }


def _of_rule(metric: str, rule: Rule, text: str) -> str:
    """``text`` where the run has that series about the rule, else nothing."""
    return _with(f'printf "{metric}{{run_id=%q,rule=%q}}" $labels.run_id "{rule.name}"', text)


def _first(query: str, text: str, otherwise: str = "") -> str:
    """``text`` where the query, whose every ``%q`` is the run, finds something."""
    runs = " $labels.run_id" * query.count("%q")
    return _with(f'printf "{_escaped(query)}"{runs}', text, otherwise)


def _escaped(query: str) -> str:
    return query.replace('"', '\\"')


def _with(query: str, text: str, otherwise: str = "") -> str:
    alternative = f"{{{{ else }}}}{otherwise}" if otherwise else ""
    return f"{{{{ with {query} | query }}}}{text}{alternative}{{{{ end }}}}"
