"""Health of a run: worst dominates, unknown is absent, and nothing gets healthier by getting worse."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.health import ASPECTS, AT_THRESHOLD, AT_WORST, LEFT_OUT
from rlhf_otel.catalogue.rules import RULE_BY_NAME, RULES, Comparison, Rule, RuleClass, Severity
from rlhf_otel.detection.detector import Detector, Verdict
from rlhf_otel.detection.health import HealthScores, aspect_of, closeness, damage
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


def test_severities_do_not_overlap() -> None:
    order = [Severity.INFO, Severity.WARNING, Severity.CRITICAL]
    for milder, worse in pairwise(order):
        assert AT_WORST[milder] < AT_THRESHOLD[worse]


def test_the_rules_that_count_are_those_of_the_detector() -> None:
    assert Detector(RULES).rules == tuple(IN_PROCESS)
