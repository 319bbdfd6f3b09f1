"""Spans, phases and attribute keys.

Resource and span attributes follow the open ``rl.*`` proposal for OpenTelemetry; ours are under ``rlhf.*``.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

INSTRUMENTATION_SCOPE: Final = "rlhf_otel"
STEP_SPAN: Final = "rlhf.step"
RUN_SPAN: Final = "rlhf.run"
CHECKPOINT_SPAN: Final = "rlhf.checkpoint_analysis"
FINDING_EVENT: Final = "rlhf.checkpoint.finding"
PHASE_SPAN_PREFIX: Final = "rlhf."
ANOMALY_EVENT: Final = "rlhf.anomaly"


class Scope(StrEnum):
    """Whether a phase waits for other ranks. Synchronous ranks tie in a collective phase, so only local ones
    tell who is slow."""

    LOCAL = "local"
    COLLECTIVE = "collective"


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a step that is timed; its span is ``rlhf.<name>``."""

    name: str
    scope: Scope
    help: str
    algorithm: str = ""
    """The one whose steps alone have it; empty where any may."""

    def scope_in(self, collective: Container[str]) -> Scope:
        """Its scope in a run where ``collective`` phases wait for other ranks, too."""
        return Scope.COLLECTIVE if self.name in collective else self.scope


_L, _C = Scope.LOCAL, Scope.COLLECTIVE

PHASES: Final[tuple[Phase, ...]] = (
    Phase("data", _L, "Reading the batch from the data loader."),
    Phase("generate", _L, "Sampling completions; collective where a vLLM server is asked by rank 0 for all."),
    Phase("rollout", _C, "Around sampling: gathering, tokenising, scoring bookkeeping."),
    Phase("weight_sync", _C, "Sending the policy's weights to the sampler."),
    Phase("reward", _C, "Around the reward functions; holds the gather of their results."),
    Phase("reward_function", _L, "One reward function or reward model."),
    Phase("reference_logprobs", _L, "Log-probabilities under the reference model, or a teacher."),
    Phase("policy_logprobs", _L, "Log-probabilities under the policy at generation time."),
    Phase("values", _L, "PPO: values of the completions under the value function.", "ppo"),
    Phase("update", _C, "PPO: around the epochs of updates on one rollout.", "ppo"),
    Phase("loss", _C, "Forward pass and loss; holds the reductions of logged metrics."),
    Phase("forward", _L, "The policy's forward pass inside the loss."),
    Phase("backward", _C, "Backward pass; holds the reduction of gradients."),
    Phase("optimizer", _L, "The optimizer's update."),
    Phase("evaluation", _C, "An evaluation."),
    Phase("checkpoint", _C, "Saving a checkpoint."),
    Phase("telemetry", _L, "This package, on the training thread."),
    Phase("other", _C, "Everything else; what it holds is not known, and may wait for other ranks."),
)

ABSORBING: Final = frozenset({"evaluation", "checkpoint"})
"""Phases that cost what they cost as a whole: what is timed inside them counts as theirs in a run's totals."""
ROLLOUT: Final = frozenset(
    {"generate", "rollout", "reward", "reward_function", "reference_logprobs", "policy_logprobs", "values"}
)
"""Phases that sample completions and score them."""
UPDATE: Final = frozenset({"update", "loss", "forward", "backward", "optimizer"})
"""Phases that make gradients of them, and an update."""

HEARD_AS: Final = {"reward_function": "reward"}
"""Phases that people are told of by another one's name, when a run is in them: which function it is, its stack says."""

PHASE_BY_NAME: Final[dict[str, Phase]] = {phase.name: phase for phase in PHASES}


class Attribute(StrEnum):
    """Attribute keys."""

    SYSTEM = "rl.system"
    RUN_ID = "rl.run.id"
    ALGORITHM = "rl.algorithm"
    MODEL_NAME = "rl.model.name"
    STEP = "rl.train.step"
    LOSS = "rl.train.loss"
    KL = "rl.train.kl"
    REWARD = "rl.reward.mean"
    REWARD_FUNCTION = "rl.reward.function"
    RANK = "rlhf.rank"
    WORLD_SIZE = "rlhf.world_size"
    ATTEMPT = "rlhf.attempt"
    STEP_KIND = "rlhf.step.kind"
    KEPT_BECAUSE = "rlhf.trace.kept_because"
    PROFILE_PATH = "rlhf.profile.path"
    PREVIOUS_STEP = "rlhf.trace.previous_step"
    PHASE = "rlhf.phase"
    PHASE_SCOPE = "rlhf.phase.scope"
    PHASE_DETAIL = "rlhf.phase.detail"
    RULE = "rlhf.anomaly.rule"
    SEVERITY = "rlhf.anomaly.severity"
    SIGNAL = "rlhf.anomaly.signal"
    VALUE = "rlhf.anomaly.value"
    BASELINE = "rlhf.anomaly.baseline"
    THRESHOLD = "rlhf.anomaly.threshold"
    ACTIONS = "rlhf.anomaly.actions"
    CHECKPOINT_PATH = "rlhf.checkpoint.path"
    CHECKPOINT_HEALTH = "rlhf.checkpoint.health"
    CHECKPOINT_DRIFT = "rlhf.checkpoint.drift"
    CHECKPOINT_REFERENCE_DRIFT = "rlhf.checkpoint.reference_drift"
    FINDING = "rlhf.checkpoint.finding"
    FINDING_WHERE = "rlhf.checkpoint.finding.where"
    FINDING_EVIDENCE = "rlhf.checkpoint.finding.evidence"


class StepKind(StrEnum):
    """Steps that generate completions and steps that train on them again differ in time and signals."""

    GENERATE = "generate"
    REUSE = "reuse"


class Waste(StrEnum):
    """Why time of a run was spent in vain. An update may be lost after a rollout that gave no gradient: then both
    parts of the step count, each as what it is."""

    NO_GRADIENT = "no_gradient"
    LOST_UPDATE = "lost_update"
    STALL = "stall"
    RESTART = "restart"


class Outcome(StrEnum):
    """How a run ended. Pre-emption and SIGTERM are interruptions, not failures."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
