"""The catalogue is of one piece: what its entries say of each other and of the outside holds."""

from __future__ import annotations

import re

import pytest

from rlhf_otel.catalogue.metrics import METRICS, MetricType
from rlhf_otel.catalogue.rules import RULE_BY_NAME, RULES, Comparison, NonFinite, Rule, RuleClass, Statistic
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME, SIGNALS
from rlhf_otel.catalogue.spans import PHASES
from rlhf_otel.detection import promql
from rlhf_otel.errors import CatalogueError
from rlhf_otel.sources.trl_keys import FAMILIES, UNKNOWN, measurable

JUDGED = [rule for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE]
UNIT_SUFFIX = {"seconds", "bytes", "celsius", "watts", "hertz", "ratio", "tokens", "nats", "steps"}


@pytest.mark.parametrize(
    "names",
    [
        [signal.name for signal in SIGNALS],
        [metric.name for metric in METRICS],
        [rule.name for rule in RULES],
        [phase.name for phase in PHASES],
    ],
    ids=["signals", "metrics", "rules", "phases"],
)
def test_names_are_unique(names: list[str]) -> None:
    assert len(names) == len(set(names))


def test_metric_names_follow_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch(r"rlhf_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER), metric.name
        assert metric.name.endswith("_info") == (metric.type is MetricType.INFO), metric.name
        assert metric.help.endswith("."), metric.name
        if metric.unit in UNIT_SUFFIX:
            assert metric.unit in metric.name.split("_"), f"{metric.name} does not say {metric.unit}"


def test_labels_are_bounded_sets() -> None:
    allowed = {
        "rank", "kind", "phase", "scope", "reward_function", "signal", "rule", "severity", "trace_id", "key", "label",
        "device", "reason", "place", "exporter", "outcome", "action", "finding", "aspect",
            "measure", "end", "shortcut", "quartile",
    }  # fmt: skip
    for metric in METRICS:
        if metric.type is not MetricType.INFO:
            assert set(metric.labels) <= allowed, metric.name


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_refers_to_what_exists(rule: Rule) -> None:
    assert set(rule.inhibited_by) <= RULE_BY_NAME.keys() - {rule.name}
    for condition in rule.conditions:
        if isinstance(condition, NonFinite):
            assert all(SIGNAL_BY_NAME[name].watch_nonfinite for name in condition.signals)
            continue
        signal = SIGNAL_BY_NAME[condition.signal]
        assert condition.statistic is Statistic.VALUE or signal.baseline, f"{signal.name} has no statistics"
        assert condition.statistic is not Statistic.CUSUM or signal.drift, f"{signal.name} has no CUSUM"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_says_what_a_person_needs(rule: Rule) -> None:
    assert re.fullmatch(r"[A-Z][A-Za-z]+", rule.name)
    assert not rule.summary.endswith(".")
    assert rule.cause.endswith(".")
    assert rule.remedy.endswith(".")
    assert rule.source
    assert rule.steps >= 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_judged_where_its_class_says(rule: Rule) -> None:
    if rule.rule_class is RuleClass.OUTSIDE:
        assert rule.promql is not None
        assert not rule.conditions
    else:
        assert rule.conditions
    if rule.rule_class is RuleClass.LEVEL:
        assert all(isinstance(condition, Comparison) for condition in rule.conditions)
        assert promql.compile_rule(rule, promql.Timing())


@pytest.mark.parametrize("rule", JUDGED, ids=lambda rule: rule.name)
def test_some_algorithm_can_measure_what_a_rule_compares(rule: Rule) -> None:
    algorithms = [algorithm for family in FAMILIES for algorithm in family.algorithms]
    assert any(rule.needs <= measurable(algorithm) for algorithm in algorithms)


def test_no_rule_explains_itself_away() -> None:
    def explained_by(name: str, seen: tuple[str, ...] = ()) -> None:
        assert name not in seen, f"{' is inhibited by '.join((*seen, name))}"
        for other in RULE_BY_NAME[name].inhibited_by:
            explained_by(other, (*seen, name))

    for rule in RULES:
        explained_by(rule.name)


BESIDE_THEIR_CAUSE = frozenset({"AdvantageCollapse", "RewardSpreadCollapse"})
"""Infos whose evidence from real runs lies beside another cause's: silenced, nothing real would show them."""


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.name not in BESIDE_THEIR_CAUSE], ids=lambda rule: rule.name
)
def test_what_explains_an_explanation_explains_the_rule(rule: Rule) -> None:
    """A rule that is silenced silences nothing: its effects need its cause among their own."""
    causes = {cause for name in rule.inhibited_by for cause in RULE_BY_NAME[name].inhibited_by}
    assert causes <= set(rule.inhibited_by)


def test_every_key_of_a_trainer_leads_to_a_signal() -> None:
    for family in (*FAMILIES, UNKNOWN):
        assert set(family.keys.values()) <= SIGNAL_BY_NAME.keys(), family.name


def test_an_unknown_algorithm_may_measure_anything() -> None:
    assert measurable("") == measurable("my-own") == SIGNAL_BY_NAME.keys()


def test_a_level_rule_cannot_compare_what_is_not_exported() -> None:
    rule = Rule(
        "R", RuleClass.LEVEL, RULES[0].severity, "s", "c", "r", "h",
        conditions=(Comparison("loss", Statistic.VALUE_RATIO, ">", 2.0),),
    )  # fmt: skip
    with pytest.raises(CatalogueError, match="not exported"):
        promql.compile_rule(rule, promql.Timing())


def test_a_level_rule_cannot_look_for_nan() -> None:
    rule = Rule(
        "R", RuleClass.LEVEL, RULES[0].severity, "s", "c", "r", "h", conditions=(NonFinite(("loss",)),)
    )  # fmt: skip
    with pytest.raises(CatalogueError, match="compares numbers"):
        promql.compile_rule(rule, promql.Timing())
