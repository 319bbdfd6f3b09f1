"""The exported streak of a level rule: as many steps as it has been in breach, while nothing explains it away."""

from __future__ import annotations

from rlhf_otel.catalogue.rules import Comparison, Rule, RuleClass, Severity, Statistic
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.detector import Detector
from rlhf_otel.records import StepRecord


def rule(name: str, signal: str, inhibited_by: tuple[str, ...] = ()) -> Rule:
    condition = Comparison(signal, Statistic.VALUE, ">", 1.0)
    return Rule(
        name, RuleClass.LEVEL, Severity.WARNING, "", "", "", "", conditions=(condition,), steps=2,
        inhibited_by=inhibited_by,
    )  # fmt: skip


def streaks(rows: list[dict[str, float]]) -> list[dict[str, int]]:
    detector = Detector([rule("Cause", "loss"), rule("Effect", "grad_norm", ("Cause",))])
    found = []
    for step, values in enumerate(rows, 1):
        time_ns = step * 10**9
        detector.observe(StepRecord(step, 0.0, StepKind.GENERATE, 0, 0, time_ns, values), {})
        found.append(detector.streaks)
    return found


def test_it_counts_steps_in_a_row() -> None:
    high, low = {"grad_norm": 2.0}, {"grad_norm": 0.5}
    assert streaks([low, high, high, low, high]) == [{}, {"Effect": 1}, {"Effect": 2}, {}, {"Effect": 1}]


def test_a_step_without_the_value_ends_it() -> None:
    assert streaks([{"grad_norm": 2.0}, {}, {"grad_norm": 2.0}]) == [{"Effect": 1}, {}, {"Effect": 1}]


def test_what_is_explained_away_does_not_count() -> None:
    both = {"loss": 2.0, "grad_norm": 2.0}
    assert streaks([both, both, both]) == [
        {"Cause": 1, "Effect": 1},
        {"Cause": 2},  # the cause fires now, and is judged before its effect
        {"Cause": 3},
    ]
