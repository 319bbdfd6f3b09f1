"""Parts that a run has if its settings ask for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_otel import faults
from rlhf_otel.actions.of_a_run import RunActions
from rlhf_otel.checkpoints.process import CheckpointAnalysis
from rlhf_otel.guard.of_a_run import RunGuard
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.profiling.of_a_run import RunProfiling
from rlhf_otel.settings import Settings
from rlhf_otel.sources.reward_range import RewardRange
from rlhf_otel.sources.samples import Samples
from rlhf_otel.step_observer import sentence
from rlhf_otel.trainer_facts import files_directory


def samples_of(settings: Settings, trainer: Any, resumed: Mapping[str, Any]) -> Samples | None:
    """Signals of single completions; ``resumed`` may hold the range of rewards so far."""
    if settings.samples != "on":
        return None
    rewards = RewardRange()
    with faults.isolated("detection", "restoring the range of rewards"):
        rewards = RewardRange(resumed.get("reward_range") or ())
    return Samples(bool(getattr(trainer, "mask_truncated_completions", False)), rewards)


def guard_of(settings: Settings, trainer: Any, pipeline: Pipeline) -> RunGuard | None:
    """The bad-update guard."""
    if settings.guard == "off":
        return None
    directory = files_directory(settings, trainer)
    return RunGuard(settings, trainer, lambda: pipeline.identity, directory, pipeline.submit)


def analysis_of(settings: Settings, pipeline: Pipeline) -> CheckpointAnalysis | None:
    """The analysis of saved checkpoints, on one rank: all ranks save the same weights, or parts of the same files."""
    if settings.checkpoints == "off" or pipeline.identity.rank != 0:
        return None
    model = Path(pipeline.identity.model or "?")
    reference = model if model.is_dir() else None
    return CheckpointAnalysis(lambda found: pipeline.submit(pipeline.analysed, found), reference)


def actions_of(settings: Settings, pipeline: Pipeline, profiling: RunProfiling) -> RunActions | None:
    """What follows an anomaly; the pipeline asks it for its answer."""
    if not settings.actions:
        return None
    actions = RunActions(settings, lambda: pipeline.identity, profiling, pipeline.note, sentence)
    pipeline.answer = actions.answer
    return actions
