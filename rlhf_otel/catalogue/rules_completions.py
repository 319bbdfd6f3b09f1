"""Rules about single completions: what they look like, and how rewards depend on that."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

_LEVEL = RuleClass.LEVEL
_WARNING, _INFO = Severity.WARNING, Severity.INFO

COMPLETION_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "RepetitionHigh", _LEVEL, _WARNING,
        "completions repeat themselves",
        "The policy loops: it lost its end-of-sequence token, its entropy collapsed, or the reward pays for length.",
        "Read completions; look at entropy, length and truncation; add a repetition penalty to generation or reward.",
        "Heuristic: well above what the run did before.",
        conditions=(
            Comparison("repetition_ratio", Statistic.AVERAGE, ">", 0.2),
            Comparison("repetition_ratio", Statistic.SHIFT, ">", 2.0),
        ),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "RepetitionRising", _LEVEL, _INFO,
        "completions repeat themselves more and more",
        "The policy begins to loop, or answers become more alike in form.",
        "Read completions; RepetitionHigh warns if it goes on.",
        "Heuristic.",
        conditions=(
            Comparison("repetition_ratio", Statistic.SHIFT, ">", 1.0),
            Comparison("repetition_ratio", Statistic.RATIO, ">", 1.5),
        ),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway", "RepetitionHigh"),
    ),
    Rule(
        "EmptyCompletions", _LEVEL, _WARNING,
        "many completions are empty",
        "The policy ends at once: an end token that pays, a length penalty that is too strong, or a broken prompt template.",
        "Read completions; compare the reward of empty ones with the others'.",
        "Heuristic.",
        conditions=(
            Comparison("empty_completion_ratio", Statistic.AVERAGE, ">", 0.2),
            Comparison("empty_completion_ratio", Statistic.SHIFT, ">", 4.0),
        ),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "LengthBias", _LEVEL, _INFO,
        "longer completions get higher rewards",
        "A reward that pays for length (a judge's taste, points per sentence), or a task that needs long answers.",
        "Compare answers of different length that are equally right; penalise length, or normalise by it.",
        "Heuristic: 0.6 explains a third of the reward's variance by length (Singhal et al., arXiv:2310.03716, on such biases).",
        conditions=(Comparison("reward_length_correlation", Statistic.AVERAGE, ">", 0.6),),
        steps=20,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "MaskedShareHigh", _LEVEL, _WARNING,
        "most completion tokens are left out of the loss",
        "mask_truncated_completions leaves out what was cut off, and most completions are.",
        "Raise max_completion_length, or mend what keeps completions from ending.",
        "Definition: half of the sampling is thrown away.",
        conditions=(Comparison("masked_token_ratio", Statistic.AVERAGE, ">", 0.5),),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "RewardSaturated", _LEVEL, _INFO,
        "most groups are all right, so that they teach nothing more",
        "The prompts have become too easy for the policy, or the reward is satisfied by everything.",
        "Bring harder prompts (dynamic sampling, DAPO arXiv:2503.14476), or stop here; check the reward by hand.",
        "Heuristic: half of the sampling is without effect.",
        conditions=(Comparison("groups_all_right", Statistic.AVERAGE, ">", 0.5),),
        steps=10,
        inhibited_by=("NonFinite", "NoAdvantage"),
    ),
    Rule(
        "PromptsTooHard", _LEVEL, _INFO,
        "most groups are all wrong, so that they teach nothing",
        "The prompts are too hard for the policy, or the reward function recognises no right answer (format, parsing).",
        "Score a right answer by hand; bring easier prompts or a finer reward; sample more completions per group.",
        "Heuristic: half of the sampling is without effect.",
        conditions=(Comparison("groups_all_wrong", Statistic.AVERAGE, ">", 0.5),),
        steps=10,
        inhibited_by=("NonFinite", "NoAdvantage"),
    ),
)  # fmt: skip
