"""promtool tests: for every alert a run on which it fires and runs on which it stays silent.

Verdict and level alerts get their series from the rule's own conditions; alerts with a given expression have
theirs in ``outside_cases``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rlhf_otel.catalogue.recorded import BOARD_OF_RUN
from rlhf_otel.catalogue.rules import RULE_BY_NAME, Comparison, Rule, RuleClass, Severity
from rlhf_otel.catalogue.run_boards import GROUPS, PPO
from rlhf_otel.detection.promql import ENGINE, STREAK, AlertForm, Timing, series
from rlhf_otel.generate import page, rules
from rlhf_otel.generate.case_series import Case
from rlhf_otel.generate.outside_cases import OUTSIDE_CASES
from rlhf_otel.generate.page import Links
from rlhf_otel.generate.promtool_values import last, now
from rlhf_otel.generate.yaml_text import dump
from rlhf_otel.settings import METRICS_PORT

INSTANCE: Final = f"host:{METRICS_PORT}"
EVALUATED_AFTER: Final = "10m"
EVALUATED_EVERY: Final = 4
"""In scrapes. promtool evaluates all rules for each test, so that the time it takes goes with the square of their
number."""
RUN: Final = re.compile(r'run_id="([^"]+)"')


UNKNOWN_RUN: Final = {
    "team": "",
    "owner": "",
    "around": "",
    "board": GROUPS.uid,
    "state": "gone",
    "gpu_hours_at_risk": "unknown",
    "last_good_checkpoint": "none in this attempt",
    "action_taken": "none",
}
"""What a page says of a run of which there is nothing but the alert; ``around`` is the moment that the link to the
board shows, in Unix seconds."""

NEEDS: Final = {
    "EngineDisagreement": ("NonFinite", "RewardCollapse", "TruncationHigh"),
    "RunFailed": ("RunGone",),
    "RunStalled": ("RunGone",),
    "RunGone": ("RunStalled", "RunFailed"),
}
"""Rules whose cases rest on others, which have to be as in the catalogue."""


def tests_file(timing: Timing, rules_path: str, links: Links, judged: Sequence[Rule]) -> str:
    """All tests, as promtool's YAML."""
    testable = [form for form in rules.forms(timing, judged) if _is_testable(form.rule, judged)]
    tests = [_test(form, case, timing, links) for form in testable for case in _cases(form)]
    return dump(
        {"rule_files": [rules_path], "evaluation_interval": timing.duration(EVALUATED_EVERY), "tests": tests}
    )


def _is_testable(rule: Rule, judged: Sequence[Rule]) -> bool:
    return all(RULE_BY_NAME[name] in judged for name in NEEDS.get(rule.name, ()))


def _cases(form: AlertForm) -> Sequence[Case]:
    if form.engine == ENGINE.verdict:
        cases = [_verdict_case(form.rule)]
        return [*cases, _page_case(form.rule)] if form.rule.severity is Severity.CRITICAL else cases
    if form.rule.rule_class is RuleClass.LEVEL:
        return [_level_case(form.rule)]
    return OUTSIDE_CASES[form.rule.name]


def _test(form: AlertForm, case: Case, timing: Timing, links: Links) -> dict[str, Any]:
    expected = [_expected(form, labels, case, timing, links) for labels in case.firing]
    return {
        "name": f"{form.rule.name} ({form.engine}): {case.name}",
        "interval": f"{timing.scrape_s}s",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {"eval_time": case.evaluated_after, "alertname": form.rule.alert, "exp_alerts": expected},
        ],
    }


def _expected(
    form: AlertForm, own: Mapping[str, str], case: Case, timing: Timing, links: Links
) -> dict[str, Any]:
    """Facts about the run follow from the case's series, where the case does not give them."""
    run = own.get("run_id", "")
    texts = page.texts(form.rule, links)
    texts["summary"] = texts["summary"].replace("{{ $labels.run_id }}", run)
    seen = _seen(case, run, timing)
    found = {
        **UNKNOWN_RUN,
        **seen,
        "observed": case.observed,
        "stacks": "",
        "trace_id": case.trace_id,
        **case.facts.get(run, {}),
    }
    around = found["around"] if form.rule.rule_class is RuleClass.OUTSIDE or case.facts else ""
    found["board_url"] = f"{links.boards}/d/{found['board']}?var-run={run}{_period(around)}"
    found["trace_url"] = links.traces.replace(page.TRACE_ID, case.trace_id) if case.trace_id else ""
    texts |= {name: found[name] for name in texts.keys() & found.keys()}
    labels = {**page.labels(form), **own, "team": found["team"]}
    return {"exp_labels": {name: value for name, value in labels.items() if value}, "exp_annotations": texts}


def _seen(case: Case, run: str, timing: Timing) -> dict[str, str]:
    """When the run was last seen, and how it is."""
    scrapes = _seconds(case.evaluated_after) // timing.scrape_s
    mine = [(name, values) for name, values in case.series.items() if f'run_id="{run}"' in name]

    def latest(metric: str) -> list[tuple[float, str]]:
        read = ((last(values, scrapes), name) for name, values in mine if name.startswith(f"{metric}{{"))
        return sorted((value, name) for value, name in read if value is not None)

    found = {}
    progress, ends = latest("rlhf_last_progress_timestamp_seconds"), latest("rlhf_run_end_timestamp_seconds")
    if progress:
        found["around"] = f"{progress[-1][0]:.0f}"
    step = next((now(values, scrapes) for name, values in mine if name.startswith("rlhf_step{")), None)
    if ends and progress and ends[-1][0] >= progress[-1][0]:
        found["state"] = ends[-1][1].partition('outcome="')[2].partition('"')[0]
    elif step is not None:
        found["state"] = f"still running, at step {step:.0f}"
    return found


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def _period(around_s: str) -> str:
    if not around_s:
        return ""
    moment = int(around_s)
    return f"&from={1000 * (moment - page.AROUND_S)}&to={1000 * (moment + page.AROUND_S)}"


def _series_name(metric: str, labels: Mapping[str, str]) -> str:
    return f"{metric}{{{','.join(f'{key}={chr(34)}{value}{chr(34)}' for key, value in labels.items())}}}"


def _verdict_case(rule: Rule) -> Case:
    severity = rule.severity.value

    def verdict(run: str) -> str:
        labels = {"run_id": run, "rule": rule.name, "severity": severity, "instance": INSTANCE}
        return _series_name("rlhf_anomaly_active", labels)

    def fact(metric: str, more: Mapping[str, str]) -> str:
        return _series_name(metric, {"run_id": "bad", "rule": rule.name, **more, "instance": INSTANCE})

    signal = {"signal": rule.signal}
    return Case(
        "latched verdict",
        {
            verdict("bad"): "0x8 1x40",
            verdict("good"): "0x48",
            fact("rlhf_anomaly_value", signal): "2.5x48",
            fact("rlhf_anomaly_usual_value", signal): "0.5x48",
            fact("rlhf_anomaly_first_step", {}): "140x48",
            fact("rlhf_anomaly_last_timestamp_seconds", {"trace_id": "abc123"}): "120x48",
        },
        ({"run_id": "bad", "instance": INSTANCE},),
        EVALUATED_AFTER,
        f"{rule.signal} is 2.5, usually 0.5, since step 140",
        "abc123",
    )


def _page_case(rule: Rule) -> Case:
    """A run of two ranks of which everything is known."""
    case = _verdict_case(rule)

    def fact(metric: str, values: str, **more: str) -> dict[str, str]:
        return {_series_name(metric, {"run_id": "bad", **more, "instance": INSTANCE}): values}

    series = {
        **case.series,
        **fact("rlhf_anomaly_first_timestamp_seconds", "300x48", rule=rule.name),
        **fact("rlhf_run_info", "1x48", team="alignment", owner="ada", rank="0"),
        **fact(BOARD_OF_RUN, "1x48", board=PPO.uid),
        **fact("rlhf_step", "160x48"),
        **fact("rlhf_process_start_time_seconds", "0x48", rank="0"),
        **fact("rlhf_last_progress_timestamp_seconds", "0+15x48", rank="0"),
        **fact("rlhf_last_progress_timestamp_seconds", "0+15x48", rank="1"),
        **fact("rlhf_gpu_memory_total_bytes", "1e11x48", rank="0", device="0"),
        **fact("rlhf_last_good_checkpoint_step", "100x48"),
        **fact("rlhf_last_good_checkpoint_timestamp_seconds", "240x48"),
        **fact("rlhf_actions_total", "1x48", action="save", outcome="done"),
        **fact("rlhf_actions_total", "0x48", action="stop", outcome="failed"),
    }
    facts = {
        "team": "alignment",
        "owner": "ada",
        "around": "300",
        "board": PPO.uid,
        "observed": f"{case.observed} (1970-01-01 00:05:00 UTC)",
        "state": "still running, at step 160",
        "gpu_hours_at_risk": "0.20",  # 2 ranks, 360 s
        "last_good_checkpoint": "step 100",
        "action_taken": "save (done)",
    }
    return case._replace(name="all that a page says", series=series, facts={"bad": facts})


def _level_case(rule: Rule) -> Case:
    comparisons = [condition for condition in rule.conditions if isinstance(condition, Comparison)]
    found: dict[str, str] = {}
    for position, comparison in enumerate(comparisons):
        breach, sound = _breach(comparison), _sound(comparison)
        found[_level_series(comparison, "bad")] = f"{sound:g}x12 {breach:g}x40"
        found[_level_series(comparison, "good")] = f"{sound:g}x52"
        found[_level_series(comparison, "one-scrape")] = f"{sound:g}x30 {breach:g} {sound:g}x20"
        for other in range(len(comparisons)) if len(comparisons) > 1 else ():
            value = breach if other == position else sound
            found[
                _level_series(comparison, f"only-{comparisons[other].signal}-{comparisons[other].statistic}")
            ] = f"{value:g}x52"
    runs = sorted({match[1] for name in found if (match := RUN.search(name))})
    found |= {_streak(run, rule): f"{rule.steps}x52" for run in runs}
    found |= {
        _level_series(comparison, "too-short"): f"{_breach(comparison):g}x52" for comparison in comparisons
    }
    found[_streak("too-short", rule)] = f"{rule.steps - 1}x52"
    if rule.after_step:
        for run in (*runs, "too-short"):
            found[_series_name("rlhf_step", {"run_id": run, "instance": INSTANCE})] = (
                f"{rule.after_step + 1}x52"
            )
    firing = {"run_id": "bad", "instance": INSTANCE, **_own_labels(comparisons[0])}
    return Case("sustained breach, not a single scrape", found, (firing,), EVALUATED_AFTER)


def _streak(run: str, rule: Rule) -> str:
    return _series_name(STREAK, {"run_id": run, "rule": rule.name, "instance": INSTANCE})


def _own_labels(comparison: Comparison) -> dict[str, str]:
    return {"signal": comparison.signal} if "{" in series(comparison) else {}


def _level_series(comparison: Comparison, run: str) -> str:
    metric = series(comparison).partition("{")[0]
    return _series_name(metric, {"run_id": run, **_own_labels(comparison), "instance": INSTANCE})


def _breach(comparison: Comparison) -> float:
    return _beyond(comparison, 1.5, 1.0) if comparison.op == ">" else _beyond(comparison, 0.5, -1.0)


def _sound(comparison: Comparison) -> float:
    return _beyond(comparison, 0.5, -1.0) if comparison.op == ">" else _beyond(comparison, 1.5, 1.0)


def _beyond(comparison: Comparison, factor: float, step: float) -> float:
    """A number on the wanted side of the threshold, also for a threshold of 0 and below it."""
    threshold = comparison.threshold
    if threshold == 0:
        return step
    return threshold * (factor if threshold > 0 else 2.0 - factor)
