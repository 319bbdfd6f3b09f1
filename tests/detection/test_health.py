"""Health of a run: worst dominates, unknown is absent, and nothing gets healthier by getting worse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.health import ASPECTS, AT_THRESHOLD, AT_WORST, LEFT_OUT, NEAR, health_of
from rlhf_otel.catalogue.rules import (
    RULE_BY_NAME,
    RULES,
    Comparison,
    NonFinite,
    Rule,
    RuleClass,
    Severity,
    Statistic,
)
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.detection.closeness import closeness, harmless
from rlhf_otel.detection.conditions import statistic_of
from rlhf_otel.detection.detector import Detector, Verdict
from rlhf_otel.detection.health import HealthScores, aspect_of, damage
from rlhf_otel.records import Health, Statistics

IN_PROCESS = [rule for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE]
CONDITIONS = [c for rule in IN_PROCESS for c in rule.conditions if isinstance(c, Comparison)]
STEADY = Statistics(1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0)
VALUES = {
    "loss": 0.1,
    "grad_norm": 1.0,
    "reward": 0.5,
    "entropy": 2.0,
    "step_duration": 1.0,
    "host_memory_used": 0.3,
}
LEVELS = st.floats(allow_nan=False)


def scored(
    values: dict[str, float] | None = None,
    active: Iterable[str] = (),
    rules: list[Rule] = IN_PROCESS,
    **statistics: Statistics,
) -> Health:
    known = dict.fromkeys(VALUES, STEADY) | statistics
    verdicts = [Verdict(RULE_BY_NAME[name], active=True, total=1) for name in active]
    return HealthScores(rules).observe(VALUES | (values or {}), known, verdicts)


def test_every_rule_in_process_counts_in_one_aspect() -> None:
    listed = [name for aspect in ASPECTS for name in aspect.rules]
    assert len(listed) == len(set(listed))
    assert set(listed) | LEFT_OUT == {rule.name for rule in IN_PROCESS}


def test_a_rule_of_the_user_counts_where_its_signal_does() -> None:
    mine = replace(RULE_BY_NAME["RewardCollapse"], name="Mine")
    assert aspect_of(mine) == "reward"
    assert scored(active=[], rules=[mine]).aspects == {"reward": 1.0}


def test_steady_values_are_healthy() -> None:
    health = scored()
    assert health.overall == pytest.approx(1.0, abs=0.02)
    assert health.aspects.keys() == {"stability", "policy", "reward", "throughput", "memory"}


@pytest.mark.parametrize(
    "rule", [rule for rule in IN_PROCESS if rule.name not in LEFT_OUT], ids=lambda rule: rule.name
)
def test_what_fires_takes_what_its_severity_says(rule: Rule) -> None:
    values = {name: 1.0 for aspect in ASPECTS for name in aspect.essential if aspect.name == aspect_of(rule)}
    quiet = scored(values, rules=[rule])
    loud = scored(values, [rule.name], rules=[rule])
    aspect = aspect_of(rule)
    assert aspect is not None
    assert loud.aspects[aspect] == loud.overall
    assert 1 - AT_WORST[rule.severity] <= loud.aspects[aspect] <= 1 - AT_THRESHOLD[rule.severity]
    assert quiet.aspects.get(aspect, 1.0) > loud.aspects[aspect]


def test_the_worst_aspect_dominates() -> None:
    health = scored(active=["KLRunaway", "LossSpike", "SlowStep"])
    assert health.aspects["policy"] == pytest.approx(0.3)
    assert 0.9 * health.aspects["policy"] <= (health.overall or 1.0) <= health.aspects["policy"]


def test_not_a_number_is_no_health_at_all() -> None:
    assert scored(active=["NonFinite"]).overall == 0.0
    assert scored({"reward": math.nan}).aspects["reward"] == 0.0
    assert scored({"checkpoint_health": 0.0}).aspects["checkpoint"] == 0.0


def test_what_is_not_measured_is_unknown() -> None:
    nothing = HealthScores(IN_PROCESS).observe({}, {}, ())
    assert (nothing.overall, nothing.aspects) == (None, {})
    assert nothing.coverage < 0.1
    assert "value" not in scored().aspects
    assert "value" in scored({"value_loss": 0.1}, value_loss=STEADY).aspects
    assert "checkpoint" in scored({"checkpoint_age": 0.5}).aspects


def test_an_aspect_is_unknown_while_none_of_its_rules_can_be_judged() -> None:
    rules = [RULE_BY_NAME["RewardCollapse"]]
    warming_up = STEADY._replace(baseline=None, zscore=None, ratio=None, shift=None, reference_ratio=None)
    assert scored(rules=rules, reward=warming_up).aspects == {}
    assert scored(rules=rules).aspects == {"reward": 1.0}


def test_coverage_is_the_share_of_rules_that_could_be_judged() -> None:
    rules = [RULE_BY_NAME[name] for name in ("RewardCollapse", "RewardPlateau", "ZeroAdvantageGroups")]
    assert scored(rules=rules).coverages == {"reward": pytest.approx(2 / 3)}
    assert scored(rules=rules, zero_advantage_groups=STEADY._replace(average=0.0)).coverage == 1.0


def test_rules_about_what_may_never_happen_do_not_lower_the_coverage() -> None:
    errors = [RULE_BY_NAME["RewardCollapse"], RULE_BY_NAME["RewardFunctionFailing"]]
    assert scored(rules=errors).coverage == 1.0
    growth = scored({"host_memory_used": 0.9}, rules=[RULE_BY_NAME["HostMemoryGrowth"]])
    assert growth.aspects == {"memory": 1.0}, "it does not grow"


def test_a_level_counts_before_its_rule_fires_and_an_event_does_not() -> None:
    near = STEADY._replace(shift=-3.5, zscore=-3.5)
    assert 0.8 < scored(reward=near).aspects["reward"] < 0.95
    assert scored(reward=near, rules=[RULE_BY_NAME["RewardDrop"]]).aspects["reward"] == 1.0


# Laws


@pytest.mark.parametrize(
    "condition", CONDITIONS, ids=lambda c: f"{c.signal}-{c.statistic}-{c.op}{c.threshold}"
)
@given(values=st.tuples(LEVELS, LEVELS))
def test_closeness_is_monotone_and_1_at_the_threshold(
    condition: Comparison, values: tuple[float, float]
) -> None:
    low, high = sorted(values)
    milder, worse = (low, high) if condition.op == ">" else (high, low)
    assert closeness(condition, milder) <= closeness(condition, worse)
    for value in values:
        breached = value > condition.threshold if condition.op == ">" else value < condition.threshold
        assert closeness(condition, value) >= 1 if breached else closeness(condition, value) <= 1 + 1e-9


@given(st.sampled_from(IN_PROCESS), st.lists(st.tuples(st.booleans(), LEVELS), min_size=2, max_size=2))
def test_damage_never_falls_with_what_is_worse(rule: Rule, inputs: list[tuple[bool, float]]) -> None:
    (active, close), (also, further) = sorted(inputs)
    if active == also or further >= close:
        assert 0 <= damage(rule, active, close) <= damage(rule, also, max(close, further)) <= 1


@given(
    shift=st.tuples(LEVELS, LEVELS),
    ratio=st.tuples(LEVELS, LEVELS),
    active=st.sets(st.sampled_from([rule.name for rule in IN_PROCESS]), max_size=6),
    more=st.sets(st.sampled_from([rule.name for rule in IN_PROCESS]), max_size=3),
)
def test_health_never_rises_as_its_inputs_get_worse(
    shift: tuple[float, float], ratio: tuple[float, float], active: set[str], more: set[str]
) -> None:
    def at(shift: float, ratio: float, active: set[str]) -> Health:
        reward = STEADY._replace(shift=shift, zscore=shift)
        kl = STEADY._replace(average=ratio, ratio=ratio)
        return scored({"kl_per_token": 1.0}, active, reward=reward, kl_per_token=kl)

    milder = at(max(shift), min(ratio), active)
    worse = at(min(shift), max(ratio), active | more)
    assert milder.aspects.keys() <= worse.aspects.keys()
    for name, health in milder.aspects.items():
        assert 0 <= worse.aspects[name] <= health + 1e-12 <= 1 + 1e-9
    assert (worse.overall or 0.0) <= (milder.overall or 0.0) + 1e-12


NUMBERS = st.floats() | st.floats(-3.0, 3.0)
MAYBE = st.none() | NUMBERS
SIGNALS_COMPARED = sorted(set().union(*(rule.needs for rule in IN_PROCESS)) | set(VALUES))
RUNS = st.tuples(
    st.dictionaries(st.sampled_from(SIGNALS_COMPARED), MAYBE),
    st.dictionaries(
        st.sampled_from(SIGNALS_COMPARED), st.builds(Statistics, NUMBERS, *[MAYBE] * 6), max_size=30
    ),
    st.sets(st.sampled_from([rule.name for rule in IN_PROCESS]), max_size=3),
)


def rule_by_the_formulas(
    rule: Rule, values: dict[str, float | None], statistics: dict[str, Statistics]
) -> tuple[float | None, bool]:
    """How close the rule's conditions are, and whether the rule lacks what it should have."""
    found, silent = [], False
    for condition in rule.conditions:
        if isinstance(condition, NonFinite):
            return 0.0, False
        value, known = values.get(condition.signal), statistics.get(condition.signal)
        if condition.statistic is not Statistic.VALUE:
            own = math.nan if value is None else value
            value = None if known is None else statistic_of(known, condition.statistic, own)
        if value is not None:
            found.append(closeness(condition, value))
        elif SIGNAL_BY_NAME[condition.signal].momentary:
            silent = True
        else:
            return None, True
    return (None if not found else 0.0 if silent else min(found)), False


def by_the_formulas(
    rules: list[Rule], values: dict[str, float | None], statistics: dict[str, Statistics], active: set[str]
) -> Health:
    aspects, counted = {}, {}
    for aspect in ASPECTS:
        damages, missing = [], 0
        for rule in rules:
            if aspect_of(rule) == aspect.name and rule.name not in LEFT_OUT:
                close, lacking = rule_by_the_formulas(rule, values, statistics)
                missing += lacking
                if close is not None or rule.name in active:
                    damages.append(damage(rule, rule.name in active, close or 0.0))
        if damages or missing:
            counted[aspect.name] = len(damages), len(damages) + missing
        there = [value for name in aspect.essential if (value := values.get(name)) is not None]
        healths = [value for name in aspect.direct if (value := values.get(name)) is not None]
        if damages and there:
            damages += [1 - min(1.0, max(0.0, health)) for health in healths if math.isfinite(health)]
            damages += [1.0 for value in there if not math.isfinite(value)]
            aspects[aspect.name] = health_of(damages)
    read, of = (sum(column) for column in zip((0, 0), *counted.values(), strict=True))
    return Health(
        health_of(1 - health for health in aspects.values()) if aspects else None,
        aspects,
        read / of if of else 0.0,
        {name: found / all_ for name, (found, all_) in counted.items()},
    )


@given(st.lists(RUNS, min_size=1, max_size=3))
def test_scores_are_those_of_the_formulas(
    steps: list[tuple[dict[str, float | None], dict[str, Statistics], set[str]]],
) -> None:
    scores = HealthScores(IN_PROCESS)
    for values, statistics, active in steps:
        verdicts = [Verdict(RULE_BY_NAME[name], active=True, total=1) for name in active]
        assert scores.observe(values, statistics, verdicts) == by_the_formulas(
            IN_PROCESS, values, statistics, active
        )


STATISTIC = {
    Statistic.AVERAGE: "average",
    Statistic.ZSCORE: "zscore",
    Statistic.RATIO: "ratio",
    Statistic.SHIFT: "shift",
    Statistic.REFERENCE_RATIO: "reference_ratio",
    Statistic.CUSUM: "cusum",
}


@pytest.mark.parametrize(
    "rule", [rule for rule in IN_PROCESS if rule.rule_class is RuleClass.LEVEL], ids=lambda rule: rule.name
)
def test_scores_are_those_of_the_formulas_where_a_level_comes_near(rule: Rule) -> None:
    essential = {
        name: 1.0 for aspect in ASPECTS if aspect.name == aspect_of(rule) for name in aspect.essential
    }
    scores = HealthScores(IN_PROCESS)
    for close in (0.4, 0.499, 0.501, 0.55, 0.9, 1.1):
        values: dict[str, float | None] = {**essential}
        statistics: dict[str, Statistics] = {}
        for condition in rule.conditions:
            assert isinstance(condition, Comparison)
            number = next(filter(math.isfinite, harmless(condition, close)))
            if condition.statistic is Statistic.VALUE:
                values[condition.signal] = number
            else:
                known = statistics.get(condition.signal, STEADY)
                statistics[condition.signal] = known._replace(**{STATISTIC[condition.statistic]: number})
        expected = by_the_formulas(IN_PROCESS, values, statistics, set())
        assert scores.observe(values, statistics, ()) == expected


@pytest.mark.parametrize("momentary", ["weight_sync_failures", "reward_function_errors"])
def test_what_can_be_judged_follows_from_step_to_step(momentary: str) -> None:
    scores = HealthScores(IN_PROCESS)
    for values in (VALUES, VALUES | {momentary: 1.0}, VALUES, VALUES | {"entropy": math.nan}):
        assert scores.observe(values, {}, ()) == by_the_formulas(IN_PROCESS, values, {}, set())


@given(
    st.builds(
        Comparison,
        st.just("reward"),
        st.sampled_from([Statistic.VALUE, Statistic.RATIO, Statistic.SHIFT]),
        st.sampled_from(["<", ">"]),
        st.floats(-1e6, 1e6),
    ),
    NUMBERS,
    st.floats(0.1, 2.0),
)
def test_harmless_numbers_come_no_closer(condition: Comparison, value: float, close: float) -> None:
    low, high = harmless(condition, close)
    if low <= value <= high:
        assert closeness(condition, value) <= close * (1 + 1e-9)
    else:
        assert math.isnan(value) or closeness(condition, value) >= close * (1 - 1e-9)


@given(st.floats(allow_nan=False))
def test_a_ratio_may_be_compared_with_a_negative_threshold(ratio: float) -> None:
    below = Comparison("reward", Statistic.RATIO, "<", -0.5)
    rule = replace(RULE_BY_NAME["RewardDrift"], name="Mine", conditions=(below,))
    assert rule.rule_class is RuleClass.LEVEL
    steady = STEADY._replace(ratio=ratio)
    reward = scored(rules=[rule], reward=steady).aspects["reward"]
    assert (reward == 1.0) == (ratio >= -NEAR * 0.5)


def test_severities_do_not_overlap() -> None:
    order = [Severity.INFO, Severity.WARNING, Severity.CRITICAL]
    for milder, worse in pairwise(order):
        assert AT_WORST[milder] < AT_THRESHOLD[worse]


def test_the_rules_that_count_are_those_of_the_detector() -> None:
    assert Detector(RULES).rules == tuple(IN_PROCESS)
