"""Health of a run: its aspects, what each of them needs and is judged by, and what a breach costs it.

``detection/health.py`` has the formula, ``docs/health.md`` says it for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rlhf_otel.catalogue.rule import Severity

AT_THRESHOLD: Final = {Severity.CRITICAL: 0.7, Severity.WARNING: 0.3, Severity.INFO: 0.05}
"""Share of the health that a rule takes as it fires. Below 0.3 stands what pages; what a ticket costs stays above 0.5, as
for checkpoints, and what is only remarked above 0.9."""
AT_WORST: Final = {Severity.CRITICAL: 1.0, Severity.WARNING: 0.5, Severity.INFO: 0.1}
"""... and far beyond its threshold."""
BEFORE: Final = 0.25
"""Share of what a rule takes as it fires that it may take before: it asks for several steps, and one may be chance."""
REST: Final = 0.1
"""Share of the health that all damages but the worst can take together."""
NEAR: Final = 0.5
"""Part of the way to a threshold from which a level costs anything. Heuristic: healthy runs come half-way by chance."""


@dataclass(frozen=True, slots=True)
class Aspect:
    """A side of a run that is judged by itself."""

    name: str
    meaning: str
    essential: tuple[str, ...]
    """Signals of which one at least must be there, else the aspect is unknown."""
    rules: tuple[str, ...]
    direct: tuple[str, ...] = ()
    """Signals that are healths already, 0 to 1."""


ASPECTS: Final[tuple[Aspect, ...]] = (
    Aspect(
        "stability", "whether updates are finite, of usual size, and reach the weights",
        ("loss", "grad_norm"),
        (
            "NonFinite", "LossSpike", "GradientNormSpike", "GradientVanishing", "GradientLost", "LearningRateJump",
            "LearningRateOutOfRange", "LearningRateZero", "OptimizerStepsSkipped", "ParametersNotChanging",
        ),
    ),
    Aspect(
        "policy", "distance from the reference and the sampler, entropy, and what completions look like",
        (
            "entropy", "kl_per_token", "kl_per_token_sampled", "kl_per_sequence", "kl_to_sampler", "approx_kl",
            "policy_ratio", "completion_length", "chosen_logprob",
        ),
        (
            "KLSpike", "KLRunaway", "KLJump", "KLDrift", "SequenceKLRunaway", "SampledKLRunaway", "KLNegative",
            "EntropyCollapse", "EntropyFalling", "EntropyDecline", "EntropyDrift", "EntropyExplosion", "ClipFractionHigh",
            "PolicyRatioBlowUp", "SamplerMismatch", "RatioToSamplerBlowUp", "ImportanceWeightHigh", "ImportanceWeightLow",
            "SamplesStale", "LikelihoodDisplacement", "RepetitionHigh", "RepetitionRising", "EmptyCompletions",
            "MaskedShareHigh", "CompletionLengthExplosion", "CompletionLengthGrowth", "CompletionLengthCollapse",
            "TruncationHigh", "TruncationJump", "TruncationRising", "EOSMissing", "CompletionsWithoutEOS", "ToolsFailing",
        ),
    ),
    Aspect(
        "reward", "whether rewards hold their level, tell completions apart, and mean what they should",
        ("reward", "score", "preference_accuracy", "preference_margin", "chosen_reward"),
        (
            "RewardCollapse", "RewardDrop", "RewardDrift", "RewardPlateau", "RewardSaturated", "RewardSpreadJump",
            "RewardSpreadCollapse", "RewardHackingPossible", "RewardHackingSuspected", "LengthBias", "PromptsTooHard",
            "NoAdvantage", "AdvantageCollapse", "ZeroAdvantageGroups", "ZeroAdvantageRising", "RewardFunctionsInConflict",
            "RewardFunctionSilent", "RewardFunctionConstant", "RewardFunctionDominates", "RewardFunctionFailing",
            "RewardMixChanging", "PreferenceBelowChance", "PreferenceMarginCollapse", "PreferenceSaturated",
        ),
    ),
    Aspect(
        "value", "the value function (PPO)",
        ("value_loss",),
        ("ValueDivergence", "ValueClipFractionHigh"),
    ),
    Aspect(
        "throughput", "steps in their usual time, and what makes them wait",
        ("step_duration",),
        (
            "ThroughputRegression", "SlowStep", "StepTimeDrift", "RewardFunctionSlow", "WeightSyncSlow", "WeightSyncFailing",
            "SamplerRetrying", "StaleSamplesDropped", "RolloutWaitHigh", "RolloutBackpressure",
        ),
    ),
    Aspect(
        "memory", "memory of the host and of its GPUs",
        ("host_memory_used", "gpu_memory_used"),
        ("GPUMemoryNearLimit", "GPUMemoryLeak", "HostMemoryGrowth", "HostMemoryLeak"),
    ),
    Aspect(
        "reward_model", "how far the rewards that a RewardModelMonitor watches can be trusted",
        (
            "reward_model_stability", "reward_model_consistency", "reward_model_drift", "reward_model_shortcut",
            "reward_model_saturation", "reward_model_accuracy", "reward_model_calibration_error",
        ),
        (
            "RewardModelInconsistent", "RewardModelUnstable", "RewardModelDrifted", "RewardModelShortcut",
            "RewardModelSaturated", "RewardModelInaccurate", "RewardModelMiscalibrated", "RewardModelTimeouts",
        ),
    ),
    Aspect(
        "checkpoint", "the last saved checkpoint, its age, and room for the next",
        ("checkpoint_health", "checkpoint_age", "checkpoint_room"),
        ("CheckpointUnhealthy", "CheckpointNothingLearned", "CheckpointOverdue", "CheckpointDiskLow"),
        direct=("checkpoint_health",),
    ),
)  # fmt: skip

LEFT_OUT: Final = frozenset({"KLUnobserved"})
"""Rules that say what cannot be seen, which is the coverage's business."""
OVERALL: Final = "overall"
"""The label of all aspects together."""

ASPECT_OF_RULE: Final = {rule: aspect.name for aspect in ASPECTS for rule in aspect.rules}


def health_of(damages: Iterable[float]) -> float:
    """Health by the damages alone, each 0 to 1; 1 without any.

    ``(1 − d₁) · (1 − 0.1 · (1 − ∏ᵢ₌₂ (1 − dᵢ)))``: d₁ is the largest, and d₂ ..., the others, together take at most a tenth of
    what it leaves. So health never rises with a further or a larger damage, and many small ones never look like a
    fatal one. Checkpoints have the same formula, of their findings.
    """
    worst, *others = sorted(damages, reverse=True) or [0.0]
    return (1.0 - worst) * (1.0 - REST * (1.0 - math.prod(1.0 - damage for damage in others)))
