"""Rules about saved checkpoints, as their analysis found them."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

CHECKPOINT_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "CheckpointUnhealthy", RuleClass.LEVEL, Severity.WARNING,
        "the last checkpoint should not be used",
        "Its weights are NaN, exploded, zeroed or exchanged, or files of it are missing or truncated.",
        "See rlhf_checkpoint_findings for what was found, and `rlhf-otel checkpoint inspect` for where and what to do. Keep "
        "the checkpoint before it, which save_total_limit may delete.",
        "Definition: a finding of severity critical leaves a health of at most 0.3; a warning leaves at least 0.5.",
        conditions=(Comparison("checkpoint_health", Statistic.VALUE, "<", 0.4),),
    ),
    Rule(
        "CheckpointNothingLearned", RuleClass.LEVEL, Severity.WARNING,
        "the last checkpoint's weights are those of the one before",
        "No parameter requires a gradient, the learning rate is zero, or another model is saved than the one that is trained.",
        "Check requires_grad, the learning rate and the advantages; compare the two with `rlhf-otel checkpoint diff`.",
        "Definition: no weight differs.",
        conditions=(Comparison("checkpoint_drift", Statistic.VALUE, "<", 1e-15),),
        inhibited_by=("NonFinite", "LearningRateZero", "ParametersNotChanging", "NoAdvantage", "ZeroAdvantageGroups"),
    ),
)  # fmt: skip
