"""Both engines give the same verdict on the same numbers: promtool judges the generated test cases, the detector too."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
import yaml

from rlhf_otel.catalogue.rules import RULE_BY_NAME, RULES, Comparison, Rule, RuleClass, Severity, Statistic
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection import promql
from rlhf_otel.detection.detector import Detector
from rlhf_otel.detection.promql import ENGINE, STREAK, Timing, compile_rule, series
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.generate import rule_tests
from rlhf_otel.generate.page import Links
from rlhf_otel.records import RunIdentity, RunView, Snapshot, Statistics, StepRecord

LEVEL = [rule for rule in RULES if rule.rule_class is RuleClass.LEVEL]
FIELD = {
    "average": "average",
    "zscore": "zscore",
    "baseline_ratio": "ratio",
    "shift": "shift",
    "reference_ratio": "reference_ratio",
    "baseline": "baseline",
    "cusum": "cusum",
}
UNKNOWN = Statistics(0.0, None, None, None, None, None, None)

every_level_rule = pytest.mark.parametrize("rule", LEVEL, ids=lambda rule: rule.name)


@functools.cache
def generated() -> dict[str, dict[str, Any]]:
    """The generated tests by name; test_generated_files has promtool run them."""
    text = rule_tests.tests_file(Timing(), "rules.yaml", Links(), RULES)
    return {case["name"].partition(": sustained")[0]: case for case in yaml.safe_load(text)["tests"]}


def runs(case: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Run to expression to the values of its scrapes."""
    found: dict[str, dict[str, list[float]]] = {}
    for entry in case["input_series"]:
        labels = dict(re.findall(r'(\w+)="([^"]*)"', entry["series"]))
        metric = entry["series"].partition("{")[0]
        key = f'{metric}{{signal="{labels["signal"]}"}}' if "signal" in labels else metric
        found.setdefault(labels["run_id"], {})[key] = expanded(entry["values"])
    return found


def expanded(values: str) -> list[float]:
    """promtool's notation: ``2x3`` is 2 and three more."""
    numbers: list[float] = []
    for part in values.split():
        number, _, more = part.partition("x")
        numbers += [float(number)] * (1 + int(more or 0))
    return numbers


def fired(rule: Rule, scrapes: dict[str, list[float]]) -> bool:
    """Whether the detector fires on what some scrape saw: its numbers, for as many steps as it says."""
    (streaks,) = [numbers for name, numbers in scrapes.items() if name.startswith(STREAK)]
    for position, streak in enumerate(streaks):
        detector = Detector([rule])
        values, statistics = seen(rule, scrapes, position)
        for step in range(1, int(streak) + 1):
            record = StepRecord(rule.after_step + step, 0.0, StepKind.GENERATE, 0, 1, step, dict(values))
            if detector.observe(record, statistics):
                return True
    return False


def seen(
    rule: Rule, scrapes: dict[str, list[float]], position: int
) -> tuple[dict[str, float], dict[str, Statistics]]:
    """The values and statistics that a scrape shows."""
    values: dict[str, float] = {}
    statistics: dict[str, Statistics] = {}
    for condition in rule.conditions:
        assert isinstance(condition, Comparison)
        numbers = scrapes.get(series(condition), [])
        if position >= len(numbers):
            continue
        if condition.statistic is Statistic.VALUE:
            values[condition.signal] = numbers[position]
        else:
            if condition.statistic is Statistic.ZSCORE:
                values[condition.signal] = (
                    1.0  # of a step that measured it; the number itself is not compared
                )
            known = statistics.get(condition.signal, UNKNOWN)
            field = FIELD[condition.statistic.value]
            statistics[condition.signal] = known._replace(**{field: numbers[position]})
    return values, statistics


@every_level_rule
def test_the_detector_agrees_with_the_cases_that_promtool_judges(rule: Rule) -> None:
    case = generated()[f"{rule.name} (level)"]
    expected = {alert["exp_labels"]["run_id"] for alert in case["alert_rule_test"][0]["exp_alerts"]}
    found = {run for run, scrapes in runs(case).items() if fired(rule, scrapes)}
    # A breach that a single scrape saw is over for Prometheus; in process it was one, with its own duration. The
    # streak of "too-short" is said to be a step short, which does not follow from its numbers.
    assert found - {"one-scrape", "too-short"} == expected
    assert expected == {"bad"}


@every_level_rule
def test_every_number_that_a_level_rule_reads_is_exposed(rule: Rule) -> None:
    signals = {c.signal for c in rule.conditions if isinstance(c, Comparison)}
    snapshot = Snapshot(
        values=dict.fromkeys(signals, 0.5),
        statistics=dict.fromkeys(signals, Statistics(*[0.5] * 7)),
    )
    exposed = {
        (sample.name, sample.labels.get("signal"))
        for family in RunsCollector(lambda: [RunView(RunIdentity("r"), snapshot)]).collect()
        for sample in family.samples
    }
    for condition in rule.conditions:
        assert isinstance(condition, Comparison)
        metric = series(condition).partition("{")[0]
        labelled = condition.signal if condition.statistic is not Statistic.VALUE else None
        assert (metric, labelled) in exposed


def test_each_class_has_its_forms() -> None:
    for rule in RULES:
        engines = [form.engine for form in compile_rule(rule, Timing())]
        if rule.rule_class is RuleClass.OUTSIDE:
            assert engines == [ENGINE.outside]
        elif rule.rule_class is RuleClass.EVENT:
            assert engines == [ENGINE.verdict, ENGINE.level] if rule.promql else [ENGINE.verdict]
        elif rule.severity is Severity.CRITICAL:
            assert engines == [ENGINE.verdict, ENGINE.level], rule.name
        else:
            assert engines == [ENGINE.level], rule.name


def test_a_level_expression_survives_a_failed_scrape() -> None:
    """``for`` starts anew at a stale marker; a range does not."""
    for rule in LEVEL:
        for form in compile_rule(rule, Timing()):
            assert not form.hold
            if form.engine == ENGINE.level:
                assert form.expression.count("_over_time(") == len(rule.conditions) + 1


@pytest.mark.parametrize(
    ("scrape_s", "window", "two", "twenty"),
    [(15, "2m", "29900ms", "5m"), (1, "8s", "1900ms", "20s"), (60, "480s", "119900ms", "20m")],
)
def test_ranges_follow_the_scrape_interval(scrape_s: int, window: str, two: str, twenty: str) -> None:
    timing = Timing(scrape_s)
    assert (timing.window, timing.duration(20)) == (window, twenty)
    (verdict, level) = compile_rule(RULE_BY_NAME["KLRunaway"], timing)
    assert f"[{two}]" in level.expression
    assert verdict.keep_firing == twenty


def test_a_rule_that_waits_for_a_step_waits_in_prometheus_too() -> None:
    rule = RULE_BY_NAME["RewardCollapse"]
    waiting = Rule(
        rule.name, rule.rule_class, rule.severity, "s", "c", "r", "h", rule.conditions, after_step=50
    )
    assert all("rlhf_step > 50" in form.expression for form in promql.compile_rule(waiting, Timing())[1:])
