"""Rules about completions: their length, how they end and what they look like, and how rewards depend on that."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

_EVENT, _LEVEL = RuleClass.EVENT, RuleClass.LEVEL
_WARNING, _INFO = Severity.WARNING, Severity.INFO
_HEURISTIC = "Heuristic; calibrated on real tiny runs and public logs."

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
    Rule(
        "CompletionLengthExplosion", _LEVEL, _WARNING,
        "completions have become more than twice as long as usual",
        "The policy found that length pays, or has stopped ending its completions.",
        "Compare reward with length; add a length penalty or cap; look for missing end-of-sequence tokens.",
        _HEURISTIC,
        conditions=(Comparison("completion_length", Statistic.RATIO, ">", 2.0),),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "TruncationHigh", _LEVEL, _WARNING,
        "most completions are cut off at the length limit",
        "max_completion_length is too small for the task, or the policy no longer ends its completions. Cut-off answers "
        "usually score as wrong, so that the reward measures the limit.",
        "Raise max_completion_length, or use mask_truncated_completions; check the end-of-sequence token.",
        _HEURISTIC,
        conditions=(Comparison("truncated_ratio", Statistic.AVERAGE, ">", 0.8),),
        steps=20,
        inhibited_by=("NonFinite", "KLRunaway", "TruncationJump"),
    ),
    Rule(
        "CompletionLengthGrowth", _LEVEL, _INFO,
        "completions become longer, faster than usual",
        "The policy reasons longer, or found that length pays.",
        "Compare reward with length and with evaluation.",
        _HEURISTIC,
        conditions=(Comparison("completion_length", Statistic.RATIO, ">", 1.15),),
        steps=3,
        inhibited_by=("NonFinite", "KLRunaway", "CompletionLengthExplosion", "TruncationJump"),
    ),
    Rule(
        "CompletionLengthCollapse", _LEVEL, _WARNING,
        "completions have become far shorter than usual",
        "The policy stops early: an end token that pays, a length penalty that is too strong, or an empty answer that scores.",
        "Read completions; compare reward with length.",
        _HEURISTIC,
        conditions=(
            Comparison("completion_length", Statistic.RATIO, "<", 0.4),
            Comparison("completion_length", Statistic.SHIFT, "<", -4.0),
        ),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "TruncationJump", _EVENT, _WARNING,
        "from one step to the next most completions are cut off",
        "The end-of-sequence token cannot be produced any more (generation settings, tokenizer, stop tokens), or weights broke.",
        "Compare generation settings and eos_token_id before and after that step.",
        _HEURISTIC,
        conditions=(
            Comparison("truncated_ratio", Statistic.ZSCORE, ">", 10.0),
            Comparison("truncated_ratio", Statistic.VALUE, ">", 0.5),
        ),
        steps=3,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "TruncationRising", _LEVEL, _WARNING,
        "more and more completions are cut off at the length limit",
        "Completions grow towards max_completion_length.",
        "Raise the limit or penalise length before cut-off answers teach that long is wrong.",
        _HEURISTIC,
        conditions=(
            Comparison("truncated_ratio", Statistic.SHIFT, ">", 2.5),
            Comparison("truncated_ratio", Statistic.AVERAGE, ">", 0.15),
        ),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway", "TruncationHigh", "TruncationJump"),
    ),
    Rule(
        "ToolsFailing", _LEVEL, _WARNING,
        "most tool calls fail",
        "The tool or its service is down, or the policy writes calls that it does not understand.",
        "Call the tool by hand; read a failing completion.",
        _HEURISTIC,
        conditions=(Comparison("tool_failure_ratio", Statistic.AVERAGE, ">", 0.5),),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
)  # fmt: skip
