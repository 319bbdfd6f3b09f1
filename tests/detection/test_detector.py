"""The detector: every rule fires on what it is about and on nothing else; counting, latching, explaining away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.rules import (
    LATCH_SECONDS,
    LATCH_STEPS,
    RULE_BY_NAME,
    RULES,
    Comparison,
    Condition,
    NonFinite,
    Rule,
    RuleClass,
    Severity,
    Statistic,
)
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.detector import Detector, Verdict
from rlhf_otel.records import Anomaly, Statistics, StepRecord

SECOND_NS = 10**9
JUDGED = [rule for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE]
UNKNOWN = Statistics(math.nan, None, None, None, None, None, None)

every_rule = pytest.mark.parametrize("rule", JUDGED, ids=lambda rule: rule.name)


def record(step: int, seconds: float | None = None, **values: float) -> StepRecord:
    """A step; without ``seconds`` the steps are so long that only steps count for the latch."""
    time_ns = int((step * (LATCH_SECONDS + 1) if seconds is None else seconds) * SECOND_NS)
    return StepRecord(step, 0.0, StepKind.GENERATE, 0, SECOND_NS, time_ns, values)


def nonfinite(step: int, *signals: str, **values: float) -> StepRecord:
    found = record(step, **values)
    found.nonfinite.update(dict.fromkeys(signals, 1))
    return found


def rule(name: str, *conditions: Condition, **more: object) -> Rule:
    found = conditions or (Comparison("loss", Statistic.VALUE, ">", 1.0),)
    return Rule(
        name, RuleClass.EVENT, Severity.WARNING, "summary", "cause.", "remedy.", "source", found, **more
    )  # type: ignore[arg-type]


def verdict(detector: Detector, name: str) -> Verdict:
    (found,) = [found for found in detector.verdicts if found.rule.name == name]
    return found


# Every rule, by its own conditions: what each compares is put on either side of the threshold


FIELD = {
    Statistic.AVERAGE: "average",
    Statistic.ZSCORE: "zscore",
    Statistic.RATIO: "ratio",
    Statistic.SHIFT: "shift",
    Statistic.REFERENCE_RATIO: "reference_ratio",
    Statistic.BASELINE: "baseline",
    Statistic.CUSUM: "cusum",
}


def beyond(condition: Comparison) -> float:
    """The next number beyond the threshold."""
    return math.nextafter(condition.threshold, math.inf if condition.op == ">" else -math.inf)


def put(found: StepRecord, statistics: dict[str, Statistics], condition: Condition, number: float) -> None:
    """Let what ``condition`` looks at be ``number``."""
    if isinstance(condition, NonFinite):
        found.nonfinite[condition.signals[-1]] = 1
        return
    signal = condition.signal
    known = statistics.get(signal, UNKNOWN)
    if condition.statistic is Statistic.VALUE:
        found.values[signal] = number
    elif condition.statistic is Statistic.VALUE_RATIO:
        baseline = 2.0 if known.baseline is None else known.baseline
        found.values[signal], statistics[signal] = number * baseline, known._replace(baseline=baseline)
    else:
        statistics[signal] = known._replace(**{FIELD[condition.statistic]: number})


def judged(rule: Rule, step: int, sides: list[float | None]) -> tuple[StepRecord, dict[str, Statistics]]:
    """A step on which each condition sees the given number; None leaves it unknown."""
    read = (Statistic.VALUE, Statistic.VALUE_RATIO)
    given = {c.signal for c in rule.conditions if isinstance(c, Comparison) and c.statistic in read}
    found, statistics = record(step, **dict.fromkeys(rule.needs - given, 1.0)), dict[str, Statistics]()
    for condition, number in zip(rule.conditions, sides, strict=True):
        if number is not None:
            put(found, statistics, condition, number)
    return found, statistics


def breach(rule: Rule) -> list[float | None]:
    return [beyond(c) if isinstance(c, Comparison) else math.nan for c in rule.conditions]


def sound(rule: Rule) -> Iterator[list[float | None]]:
    """Each condition in turn at its threshold (which is no breach), or unknown, or NaN; the others in breach."""
    for position, condition in enumerate(rule.conditions):
        at = [condition.threshold, math.nan] if isinstance(condition, Comparison) else []
        for number in (None, *at):
            sides = breach(rule)
            sides[position] = number
            yield sides


@every_rule
def test_a_rule_fires_when_all_its_conditions_held_for_its_steps(rule: Rule) -> None:
    detector = Detector([rule])
    first = rule.after_step + 1
    fired = [
        detector.observe(*judged(rule, step, breach(rule))) for step in range(first, first + 2 * rule.steps)
    ]

    assert [len(anomalies) for anomalies in fired].index(1) == rule.steps - 1
    assert sum(len(anomalies) for anomalies in fired) == 1
    (anomaly,) = fired[rule.steps - 1]
    assert (anomaly.rule, anomaly.severity) == (rule.name, rule.severity)
    assert (anomaly.first_step, anomaly.step) == (first, first + rule.steps - 1)
    assert (anomaly.cause, anomaly.remedy) == (rule.cause, rule.remedy)
    compared = rule.conditions[0]
    if isinstance(compared, Comparison):
        assert (anomaly.signal, anomaly.statistic) == (compared.signal, compared.statistic.value)
        assert anomaly.threshold == compared.threshold
        assert anomaly.observed == pytest.approx(beyond(compared))


@every_rule
def test_a_rule_is_silent_when_one_condition_does_not_hold(rule: Rule) -> None:
    for sides in sound(rule):
        detector = Detector([rule])
        for step in range(rule.after_step + 1, rule.after_step + rule.steps + 3):
            assert not detector.observe(*judged(rule, step, sides)), sides
        assert not verdict(detector, rule.name).total


@every_rule
def test_a_rule_is_silent_until_its_first_step(rule: Rule) -> None:
    detector = Detector([rule])
    for step in range(max(0, rule.after_step - 5), rule.after_step + 1):
        detector.observe(*judged(rule, step, breach(rule)))
    assert not verdict(detector, rule.name).total or rule.after_step == 0


# Every rule, from a series of values through real baselines


Levels = dict[str, tuple[float, Callable[[int], float]]]
"""Signal to its healthy level, and to its level so many steps into the fault."""

PLATEAU: Levels = {"reward": (1.0, lambda step: min(2.0, 1.0 + step / 500))}
DISPLACEMENT: Levels = {
    "chosen_logprob": (-100.0, lambda step: -200.0),
    "rejected_logprob": (-110.0, lambda step: -230.0),
    "chosen_reward": (0.1, lambda step: -1.0),
}
OVER_OPTIMISED: Levels = {
    "reward": (1.0, lambda step: 1.5),
    "kl_per_token": (0.5, lambda step: 2.0),
    "entropy": (1.0, lambda step: 0.5),
}
LEVELS: dict[str, Levels] = {
    "RewardPlateau": PLATEAU,
    "LikelihoodDisplacement": DISPLACEMENT,
    "RewardHackingPossible": OVER_OPTIMISED,
    "RewardFunctionsInConflict": {"reward_function_correlation": (0.2, lambda step: -0.9)},
}
"""Rules whose fault is no change of level by just what their thresholds say."""
HEALTHY_STEPS = 60
WITHIN = 1000


def levels(rule: Rule) -> Levels:
    """A change of level for each signal that puts all its conditions in breach."""
    found: Levels = {}
    for signal in sorted(rule.needs):
        compared = [c for c in rule.conditions if isinstance(c, Comparison) and c.signal == signal]
        healthy = healthy_level(compared)
        healthy = max(healthy, 20 * SIGNAL_BY_NAME[signal].resolution) if healthy >= 1 else healthy
        wanted = [fault_level(c, healthy) for c in compared if c.statistic is not Statistic.BASELINE]
        rises = any(c.op == ">" for c in compared if c.statistic is not Statistic.BASELINE)
        level = (max if rises else min)(wanted, default=healthy)
        found[signal] = (healthy, lambda step, level=level: level)  # type: ignore[misc]
    return found


def healthy_level(compared: list[Comparison]) -> float:
    """Well on the sound side of thresholds for the level itself; a baseline has to be on the other."""
    below, above = [math.inf], [-math.inf]
    for condition in compared:
        if condition.statistic in (Statistic.VALUE, Statistic.AVERAGE, Statistic.BASELINE):
            falls = (condition.op == ">") == (condition.statistic is not Statistic.BASELINE)
            (below if falls else above).append(condition.threshold)
    if min(below) < math.inf:
        return min(below) - 0.75 * abs(min(below)) if min(below) else -1.0
    return max(1.0, 4 * max(above))


def fault_level(condition: Comparison, healthy: float) -> float:
    threshold, above = condition.threshold, condition.op == ">"
    if condition.statistic in (Statistic.VALUE, Statistic.AVERAGE):
        beyond = abs(threshold) / 3 if threshold else 1.0
        return threshold + beyond if above else threshold - beyond
    if condition.statistic in (Statistic.ZSCORE, Statistic.SHIFT, Statistic.CUSUM):
        signal = SIGNAL_BY_NAME[condition.signal]
        scale = max(0.05 * abs(healthy), signal.resolution, signal.relative_resolution * abs(healthy))
        return healthy + 3 * scale * (math.copysign(10.0, threshold) if abs(threshold) > 20 else threshold)
    return healthy * threshold * (2.0 if above else 0.5)


def watched(detector: Detector, baselines: Baselines, step: int, values: dict[str, float]) -> list[Anomaly]:
    found = record(step, seconds=float(step), **values)
    for name, value in values.items():
        if not math.isfinite(value):
            found.nonfinite[name] = 1
    return detector.observe(found, baselines.observe(found.kind, found.values))


def healthy_values(of: Levels, step: int) -> dict[str, float]:
    wobble = (0.01, -0.015, 0.005, 0.02, -0.02)[step % 5]
    return {signal: level * (1 + wobble) for signal, (level, _) in of.items()}


@every_rule
def test_a_series_with_the_fault_fires_and_one_without_it_is_silent(rule: Rule) -> None:
    """A rule for which this fails needs a row in LEVELS, or can't fire at all."""
    of = LEVELS.get(rule.name) or levels(rule)
    detector, baselines = Detector([rule]), Baselines()
    for step in range(1, HEALTHY_STEPS + 300):
        values = healthy_values(of, step) or {"loss": 1.0}
        assert not watched(detector, baselines, step, values), f"fires at {values}"
    for step in range(WITHIN):
        values = {signal: fault(step) for signal, (_, fault) in of.items()} or {"loss": math.nan}
        if watched(detector, baselines, HEALTHY_STEPS + 300 + step, values):
            return
    pytest.fail(f"{rule.name} does not fire at {values}: {baselines.statistics}")


# NaN


@pytest.mark.parametrize("signal", RULE_BY_NAME["NonFinite"].conditions[0].signals)  # type: ignore[union-attr]
def test_nan_fires_at_the_very_step(signal: str) -> None:
    detector, baselines = Detector(), Baselines()
    for step in range(1, 50):
        assert not watched(detector, baselines, step, {signal: 1.0 + step % 2 / 100})
    (anomaly,) = watched(detector, baselines, 50, {signal: math.nan})
    assert (anomaly.rule, anomaly.step, anomaly.first_step) == ("NonFinite", 50, 50)
    assert anomaly.signal == signal
    assert math.isnan(anomaly.value)


def test_a_nan_that_the_log_lost_is_still_shown_as_one() -> None:
    found = nonfinite(7, "loss", loss=0.0)  # seen at the hook; the trainer filtered it
    found.details["loss"] = "seen in the second micro-batch"
    (anomaly,) = Detector().observe(found, {})
    assert math.isnan(anomaly.value)
    assert anomaly.detail == "seen in the second micro-batch"


def test_nan_explains_the_rest_of_its_step_away() -> None:
    detector, baselines = Detector(), Baselines()
    for step in range(1, 60):
        watched(detector, baselines, step, {"loss": 1.0 + step % 2 / 100, "grad_norm": 1.0})
    fired = watched(detector, baselines, 60, {"loss": 1e9, "grad_norm": math.nan})
    assert [anomaly.rule for anomaly in fired] == ["NonFinite"]


@given(st.sampled_from([math.nan, None]), st.sampled_from(JUDGED))
def test_no_comparison_holds_for_what_is_unknown(number: float | None, rule: Rule) -> None:
    if all(isinstance(condition, Comparison) for condition in rule.conditions):
        detector = Detector([rule])
        for step in range(1, rule.steps + rule.after_step + 2):
            assert not detector.observe(*judged(rule, step, [number] * len(rule.conditions)))


# Counting steps


def test_steps_have_to_be_consecutive() -> None:
    detector = Detector([rule("R", steps=3)])
    losses = [2, 2, 0, 2, 2, 0, 2, 2, 2, 2]
    fired = [bool(detector.observe(record(step, loss=float(loss)), {})) for step, loss in enumerate(losses)]
    assert fired == [False] * 8 + [True, False]
    assert verdict(detector, "R").first_step == 6


@given(st.lists(st.booleans(), max_size=120), st.integers(1, 5))
def test_it_fires_just_where_so_many_breaches_in_a_row_end(breaches: list[bool], steps: int) -> None:
    detector = Detector([rule("R", steps=steps)])
    active, clean, row = False, 0, 0
    for step, bad in enumerate(breaches, 1):
        row, clean = (row + 1, 0) if bad else (0, clean + 1)
        expected = bad and row >= steps and not active
        if active and clean >= LATCH_STEPS:
            active = False
        active = active or expected
        fired = detector.observe(record(step, loss=2.0 if bad else 0.0), {})
        assert bool(fired) == expected
        assert verdict(detector, "R").active == active


def test_a_step_without_the_signal_interrupts_a_value_rule() -> None:
    detector = Detector([rule("R", steps=2)])
    fired = [detector.observe(found, {}) for found in (record(1, loss=2.0), record(2), record(3, loss=2.0))]
    assert not any(fired)


def test_a_reuse_step_is_judged_by_the_latest_averages() -> None:
    detector = Detector([rule("R", Comparison("reward", Statistic.AVERAGE, ">", 1.0), steps=2)])
    statistics = {"reward": UNKNOWN._replace(average=2.0)}
    detector.observe(record(1, reward=2.0), statistics)
    (anomaly,) = detector.observe(record(2), statistics)
    assert anomaly.value == 2.0


def test_a_reuse_step_repeats_no_spike() -> None:
    detector = Detector([rule("R", Comparison("reward", Statistic.ZSCORE, ">", 5.0), steps=2)])
    statistics = {"reward": UNKNOWN._replace(zscore=9.0)}
    detector.observe(record(1, reward=2.0), statistics)
    assert not detector.observe(record(2), statistics)


def test_a_deviation_lasts_over_the_steps_that_reuse_its_generation() -> None:
    detector = Detector([rule("R", Comparison("reward", Statistic.ZSCORE, "<", -2.0), steps=3)])
    statistics = {"reward": UNKNOWN._replace(zscore=-9.0)}
    fired = []
    for step in range(1, 6):
        found = record(step, reward=0.0) if step % 2 else replace(record(step), kind=StepKind.REUSE)
        fired.append([anomaly.first_step for anomaly in detector.observe(found, statistics)])
        assert detector.streaks["R"] == (step + 1) // 2
    assert fired == [[], [], [], [], [1]]


def rewards(bad: range, level: float) -> set[str]:
    """What fires on a reward of about 1 that is ``level`` at the steps ``bad``."""
    detector, baselines, names = Detector(), Baselines(), set()
    for step in range(1, 200):
        value = level if step in bad else 1.0 + (0.02, -0.03, 0.01, 0.04, -0.04)[step % 5]
        names |= {each.rule for each in watched(detector, baselines, step, {"reward": value})}
    return names


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_few_extreme_rewards_that_recover_page_nobody(steps: int) -> None:
    assert "RewardCollapse" not in rewards(range(100, 100 + steps), -50.0)


def test_a_reward_that_stays_down_pages() -> None:
    assert "RewardCollapse" in rewards(range(100, 200), -1.0)


def test_what_was_read_late_belongs_to_the_step_where_it_arose() -> None:
    found = nonfinite(8, "loss", loss=math.nan)
    found.lag["loss"] = 1
    (anomaly,) = Detector().observe(found, {})
    assert (anomaly.first_step, anomaly.step) == (7, 8)


# Latching


def test_a_verdict_outlives_its_breach_by_steps_and_by_seconds() -> None:
    def active_after(steps: int, seconds_each: float) -> bool:
        detector = Detector([rule("R")])
        detector.observe(record(1, seconds=0.0, loss=2.0), {})
        for clean in range(1, steps + 1):
            detector.observe(record(1 + clean, seconds=clean * seconds_each, loss=0.0), {})
        return verdict(detector, "R").active

    long, short = 2 * LATCH_SECONDS, LATCH_SECONDS / 1000
    assert active_after(LATCH_STEPS - 1, long), "not so many clean steps yet"
    assert not active_after(LATCH_STEPS, long)
    assert active_after(999, short), "not so long ago yet"
    assert not active_after(1000, short)


def test_a_breach_while_active_is_the_same_anomaly() -> None:
    detector = Detector([rule("R")])
    assert detector.observe(record(1, loss=2.0), {})
    for step in range(2, 10):
        assert not detector.observe(record(step, loss=0.0 if step % 2 else 2.0), {})
    found = verdict(detector, "R")
    assert (found.total, found.first_step, found.last_step) == (1, 1, 8)


def test_a_breach_after_it_is_another_anomaly() -> None:
    detector = Detector([rule("R")])
    detector.observe(record(1, loss=2.0), {})
    for step in range(2, 3 + LATCH_STEPS):
        detector.observe(record(step, loss=0.0), {})
    assert not verdict(detector, "R").active
    assert detector.observe(record(50, loss=3.0), {})
    found = verdict(detector, "R")
    assert (found.total, found.first_step, found.value) == (2, 50, 3.0)


def test_verdicts_of_a_step_before_do_not_change() -> None:
    detector = Detector([rule("R")])
    before = detector.verdicts
    detector.observe(record(1, loss=2.0), {})
    assert not before[0].active
    assert detector.verdicts[0].active


# Explaining away


def test_a_rule_is_silent_while_what_explains_it_is_active() -> None:
    cause, effect = rule("Cause", NonFinite(("kl_per_token",))), rule("Effect", inhibited_by=("Cause",))
    for order in ([cause, effect], [effect, cause]):
        detector = Detector(order)
        fired = detector.observe(nonfinite(1, "kl_per_token", loss=2.0), {})
        assert [anomaly.rule for anomaly in fired] == ["Cause"], "at the same step, in whichever order"
        for step in range(2, 1 + LATCH_STEPS):
            assert not detector.observe(record(step, loss=2.0), {})
        assert [anomaly.rule for anomaly in detector.observe(record(40, loss=2.0), {})] == ["Effect"]


def test_what_was_explained_away_does_not_count_towards_its_steps() -> None:
    cause, effect = rule("Cause", NonFinite(("loss",))), rule("Effect", steps=3, inhibited_by=("Cause",))
    detector = Detector([cause, effect])
    detector.observe(nonfinite(1, "loss", loss=2.0), {})
    fired = []
    for step in range(2, 60):
        fired += detector.observe(record(step, loss=2.0), {})
    (anomaly,) = fired
    assert anomaly.step == anomaly.first_step + 2


def test_what_had_been_counted_is_forgotten_when_it_is_explained_away() -> None:
    cause, effect = rule("Cause", NonFinite(("loss",))), rule("Effect", steps=3, inhibited_by=("Cause",))
    detector = Detector([cause, effect])
    for step in (1, 2):
        detector.observe(record(step, loss=2.0), {})
    detector.observe(nonfinite(3, "loss", loss=2.0), {})
    fired = [detector.observe(record(step, loss=2.0), {}) for step in range(4, 60)]
    (anomaly,) = [anomaly for anomalies in fired for anomaly in anomalies]
    assert anomaly.first_step > 3


def test_streaks_are_the_steps_in_breach_so_far() -> None:
    cause, effect = (
        rule("Cause", NonFinite(("kl_per_token",))),
        rule("Effect", steps=3, inhibited_by=("Cause",)),
    )
    detector = Detector([cause, effect])
    streaks = []
    for step, loss in enumerate([2.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0], 1):
        detector.observe(record(step, loss=loss), {})
        streaks.append(detector.streaks.get("Effect", 0))
    assert streaks == [1, 2, 0, 1, 2, 3, 4]
    detector.observe(nonfinite(8, "kl_per_token", loss=2.0), {})
    assert detector.streaks == {"Cause": 1}, "explained away"


def test_every_rule_comes_after_what_explains_it() -> None:
    order = [found.rule.name for found in Detector().verdicts]
    assert sorted(order) == sorted(rule.name for rule in JUDGED)
    for found in JUDGED:
        for other in set(found.inhibited_by) & set(order):
            assert order.index(other) < order.index(found.name)


def test_rules_about_the_process_are_not_judged_in_it() -> None:
    assert not [v for v in Detector().verdicts if v.rule.rule_class is RuleClass.OUTSIDE]
