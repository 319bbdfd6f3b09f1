"""What the words say of each kind of condition, on either side of what is usual."""

from __future__ import annotations

import pytest

from rlhf_otel.catalogue.rules import Comparison, Rule, RuleClass, Severity, Statistic
from rlhf_otel.replay.reports.wording import evidence


@pytest.mark.parametrize(
    ("statistic", "op", "threshold", "words"),
    [
        (Statistic.ZSCORE, ">", 5.0, "reward more than 5 usual deviations above the usual"),
        (Statistic.ZSCORE, "<", -5.0, "reward more than 5 usual deviations below the usual"),
        (Statistic.SHIFT, "<", 1.0, "the average of reward less than 1 usual deviations above the usual"),
        (Statistic.SHIFT, ">", -1.0, "the average of reward less than 1 usual deviations below the usual"),
        (
            Statistic.CUSUM,
            "<",
            -40.0,
            "deviations of reward from its own trend that add up to more than 40 usual deviations downwards",
        ),
        (Statistic.RATIO, "<", 0.5, "the average of reward below 0.5 times the usual"),
    ],
)
def test_conditions_in_words(statistic: Statistic, op: str, threshold: float, words: str) -> None:
    condition = Comparison("reward", statistic, op, threshold)  # type: ignore[arg-type]
    rule = Rule("R", RuleClass.LEVEL, Severity.INFO, "", "", "", "", conditions=(condition,))
    assert evidence(rule) == words
