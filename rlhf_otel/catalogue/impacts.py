"""What a rule's breach costs, for its runbook. Rules that cost the same share a sentence."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Rule, Severity

_BY_SENTENCE: Final[dict[str, tuple[str, ...]]] = {
    "The weights may be damaged from the first bad step on; all GPU time since then is likely lost.": (
        "NonFinite", "ValueDivergence", "GPUErrors",
    ),
    "The policy leaves what the reference model knows. Rewards may still rise, while text degenerates; what is trained from "
    "here on is usually thrown away.": (
        "KLRunaway", "SequenceKLRunaway", "SampledKLRunaway", "KLJump", "PolicyRatioBlowUp", "RatioToSamplerBlowUp",
    ),
    "The policy gets worse at what it is trained for with each further step; checkpoints from before are better.": (
        "RewardCollapse", "RewardDrop", "PreferenceBelowChance", "PreferenceMarginCollapse", "LikelihoodDisplacement",
    ),
    "Usually none by itself. Where it recurs, updates do damage that later steps have to undo.": (
        "LossSpike", "GradientNormSpike", "KLSpike", "RewardSpreadJump", "LearningRateJump", "KLNegative",
    ),
    "Slow change, of which training may be the worse in hundreds of steps; nothing is lost yet.": (
        "KLDrift", "RewardDrift", "EntropyDrift", "EntropyDecline", "RewardMixChanging", "RewardFunctionDominates",
        "RewardFunctionsInConflict", "RewardSpreadCollapse", "ValueClipFractionHigh", "ClipFractionHigh",
    ),
    "The policy explores less and less; without other answers there is nothing to learn from.": (
        "EntropyCollapse", "EntropyFalling",
    ),
    "Completions become noise; rewards and lengths follow.": ("EntropyExplosion",),
    "GPU time is spent without learning: the weights hardly change.": (
        "LearningRateZero", "LearningRateOutOfRange", "OptimizerStepsSkipped", "GradientVanishing", "GradientLost",
        "ParametersNotChanging", "ZeroAdvantageGroups", "NoAdvantage", "AdvantageCollapse", "RewardPlateau",
        "ZeroAdvantageRising", "RewardFunctionConstant", "RewardSaturated", "RewardModelSaturated",
        "PromptsTooHard",
        "CheckpointNothingLearned", "PreferenceSaturated",
    ),
    "The reward rises and the quality that it stands for may not: a checkpoint may be worse than an earlier one with "
    "less reward.": (
        "RewardHackingSuspected", "RewardHackingPossible", "LengthBias", "RewardModelShortcut",
        "RewardModelDrifted",
    ),
    "What the policy is rewarded for is partly chance, or not what people prefer: it learns that too, and learns more "
    "slowly.": (
        "RewardModelInconsistent", "RewardModelUnstable", "RewardModelInaccurate", "RewardModelMiscalibrated",
    ),
    "A part of what should be rewarded is not; the policy learns from the rest alone.": (
        "RewardFunctionSilent", "RewardFunctionFailing", "ToolsFailing",
    ),
    "Completions are worth less for training and for users, and longer ones cost time.": (
        "RepetitionHigh", "RepetitionRising", "EmptyCompletions", "MaskedShareHigh", "CompletionLengthExplosion",
        "TruncationHigh", "CompletionLengthGrowth", "CompletionLengthCollapse", "TruncationJump", "TruncationRising",
        "EOSMissing", "CompletionsWithoutEOS",
    ),
    "The policy is trained on what another policy would have said: gradients are biased, and learning may "
    "become unstable.": (
        "SamplerMismatch", "SamplesStale", "ImportanceWeightHigh", "ImportanceWeightLow",
    ),
    "Nothing is learned wrongly. Steps take longer, on all ranks: GPU-hours are wasted.": (
        "RewardFunctionSlow", "RewardModelTimeouts",
        "ThroughputRegression", "SlowStep", "StepTimeDrift", "Straggler", "GPUThrottled", "WeightSyncSlow",
        "RolloutWaitHigh", "RolloutBackpressure", "SamplerRetrying", "StaleSamplesDropped", "WeightSyncFailing",
    ),
    "Memory or disk will run out, which ends the run and loses what was learned since the last checkpoint.": (
        "GPUMemoryNearLimit", "HostMemoryGrowth", "HostMemoryLeak", "GPUMemoryLeak", "CheckpointDiskLow",
    ),
    "GPUs are held and nothing is learned; what was learned since the last checkpoint is lost if the run has to be killed.": (
        "RunStalled",
    ),
    "The run is over, before its end; what was learned since the last checkpoint is lost, and its GPUs idle until it is "
    "resumed.": (
        "RunFailed", "RunGone", "RunInterrupted",
    ),
    "Whatever ends the run now costs more GPU-hours than it should.": ("CheckpointOverdue",),
    "Resuming or publishing this checkpoint would bring its defect along.": ("CheckpointUnhealthy",),
    "Training is not affected. What goes wrong meanwhile may be seen late or not at all.": (
        "TelemetryFaults", "EngineDisagreement", "TargetsMissing", "KLUnobserved",
    ),
    "None.": ("RunFinished", "Drill", "Watchdog"),
}  # fmt: skip
IMPACT: Final = {name: sentence for sentence, names in _BY_SENTENCE.items() for name in names}

_OF_SEVERITY: Final = {
    Severity.CRITICAL: "As severe as a page: somebody has to act now.",
    Severity.WARNING: "To be looked at within a day.",
    Severity.INFO: "None by itself.",
}
"""For rules that users add."""


def impact_of(rule: Rule) -> str:
    """What a breach of ``rule`` costs, in a sentence or two."""
    return IMPACT.get(rule.name, _OF_SEVERITY[rule.severity])
