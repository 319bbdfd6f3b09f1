"""The sections of a report, in its order; each makes one of a story, or None where there is nothing to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rlhf_otel.report.document import Section
from rlhf_otel.report.sections import (
    anomalies,
    checkpoints,
    evaluations,
    health,
    learning,
    rewards,
    setup,
    summary,
    system,
    timing,
)
from rlhf_otel.report.story import Story

SECTIONS: Final[tuple[Callable[[Story], Section | None], ...]] = (
    summary.section,
    anomalies.section,
    health.section,
    learning.section,
    rewards.section,
    evaluations.section,
    checkpoints.section,
    timing.section,
    system.section,
    setup.configuration,
    setup.environment,
)
