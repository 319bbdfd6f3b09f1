"""Rules of what `RewardModelMonitor` finds out, and their thresholds, which its recommendations share."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

UNSTABLE: Final = 0.7
INCONSISTENT: Final = 0.75
"""Below it test-retest reliability is moderate at best (Koo and Li 2016)."""
DRIFTED_P: Final = 1e-4
DRIFTED_BY: Final = 0.25
"""Kolmogorov-Smirnov distance from which on a significant drift is worth a word; heuristic."""
SATURATED: Final = 0.9
SHORTCUT: Final = 0.6
"""Rank correlation that is called strong (Evans 1996)."""
TIMEOUTS: Final = 0.01
CHANCE: Final = 0.55
MISCALIBRATED: Final = 0.1

_LEVEL, _VALUE = RuleClass.LEVEL, Statistic.VALUE
_WARNING, _INFO = Severity.WARNING, Severity.INFO

REWARD_MODEL_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "RewardModelInconsistent", _LEVEL, _WARNING,
        "a reward gives the same completions other scores when asked again",
        "A reward model in training mode (dropout), a judge that samples, a service that mixes up requests, or a race.",
        "Set the model to eval mode and the judge's temperature to 0, or average several calls; score one completion twice.",
        "Koo and Li 2016: below 0.75 test-retest reliability is moderate at best.",
        conditions=(Comparison("reward_model_consistency", _VALUE, "<", INCONSISTENT),),
    ),
    Rule(
        "RewardModelUnstable", _LEVEL, _INFO,
        "the level of a reward's scores jumps, or the reward is constant",
        "The data's order, a service behind the function whose version or load changes, or a function that parses nothing.",
        "Compare the completions of two neighbouring stretches; re-score those of the first.",
        "Heuristic: 30 % of the variance lies between eighths of the last scores, once the trend is taken out.",
        conditions=(Comparison("reward_model_stability", _VALUE, "<", UNSTABLE),),
    ),
    Rule(
        "RewardModelDrifted", _LEVEL, _INFO,
        "the scores of a reward are distributed otherwise than in the reference window",
        "The policy has learned, which is meant; the prompts have changed; or the reward itself has.",
        "Re-score a fixed set of completions: if those scores moved, the reward did.",
        "Kolmogorov-Smirnov at p < 0.0001; the distance of 0.25 is a heuristic.",
        conditions=(Comparison("reward_model_drift", _VALUE, ">", DRIFTED_BY),),
    ),
    Rule(
        "RewardModelShortcut", _LEVEL, _WARNING,
        "a reward follows length, repetition or markup of the completions",
        "The reward model learned the shortcut from its pairs, or the function counts it.",
        "Read the best-scored completions; penalise the shortcut, or compare completions that are alike in it.",
        "Evans 1996: a rank correlation of 0.6 is strong.",
        conditions=(Comparison("reward_model_shortcut", _VALUE, ">", SHORTCUT),),
    ),
    Rule(
        "RewardModelSaturated", _LEVEL, _INFO,
        "nearly all scores of a reward are at the top of their observed range",
        "The prompts have become easy for the policy, or the scale ends too early.",
        "Bring harder prompts, or a finer scale: what all completions reach separates none of them.",
        "Heuristic.",
        conditions=(Comparison("reward_model_saturation", _VALUE, ">", SATURATED),),
    ),
    Rule(
        "RewardModelInaccurate", _LEVEL, _WARNING,
        "a reward model prefers the chosen completion of labelled pairs hardly more often than chance",
        "Another domain than it was trained on, a wrong chat template, exchanged columns, or a swapped sign.",
        "Check template and order of the pairs; train the reward model on pairs of this domain.",
        "Chance is 0.5; 0.55 is a heuristic.",
        conditions=(Comparison("reward_model_accuracy", _VALUE, "<", CHANCE),),
    ),
    Rule(
        "RewardModelMiscalibrated", _LEVEL, _INFO,
        "the confidence of a reward model on labelled pairs is off",
        "It was trained for too long, or on pairs that are clearer than these.",
        "Divide its scores by a temperature fitted on these pairs before they are mixed with other rewards.",
        "Expected calibration error as in Guo et al. 2017 (arXiv:1706.04599); the level of 0.1 is a heuristic.",
        conditions=(Comparison("reward_model_calibration_error", _VALUE, ">", MISCALIBRATED),),
    ),
    Rule(
        "RewardModelTimeouts", _LEVEL, _WARNING,
        "calls of a reward time out",
        "Its service is overloaded, or waits for something itself.",
        "Give the service more workers, or the call a longer timeout and fewer completions.",
        "Heuristic: one call in a hundred.",
        conditions=(Comparison("reward_model_timeouts", _VALUE, ">", TIMEOUTS),),
    ),
)  # fmt: skip
