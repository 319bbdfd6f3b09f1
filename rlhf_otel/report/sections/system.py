"""GPU, host and memory."""

from __future__ import annotations

from typing import Final

from rlhf_otel.report.document import Section
from rlhf_otel.report.sections.charts import chart_of
from rlhf_otel.report.story import Story

SHOWN: Final = (
    "gpu_memory_used", "gpu_memory_growth", "allocation_retries", "host_memory_used", "process_memory_growth",
    "host_memory_exhaustion", "model_flops_utilization", "weight_sync_time", "rollout_queue", "rollout_wait",
    "checkpoint_room", "reward_function_time",
)  # fmt: skip
SIGNALS: Final = (
    *SHOWN, "checkpoint_age", "step_duration", "tokens_per_second", "trainer_step_time", "checkpoint_health",
    "checkpoint_drift", "checkpoint_reference_drift",
)  # fmt: skip
"""Signals that belong here, or to time and checkpoints, rather than to the curves of training."""


def section(story: Story) -> Section | None:
    """Charts of what moved."""
    names = [name for name in SHOWN if name in story.curves and story.curves[name].moves()]
    if not names:
        return None
    data = {
        name: {"last": story.curves[name].last(), "max": max(story.curves[name].finite(), default=None)}
        for name in names
    }
    return Section("system", "System", [chart_of(story, name) for name in names], data)
