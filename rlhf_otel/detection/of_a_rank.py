"""What a rank judges of its steps."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_otel.catalogue.rules import Rule
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.detector import Detector


def judges_of(rank: int, measurable: frozenset[str], rules: Sequence[Rule]) -> tuple[Baselines, Detector]:
    """Rank 0 judges all that its algorithm can measure. The others, which lack its signals, judge their own step
    time (what is worth a trace) and what is not finite, which may be on one rank alone."""
    if rank == 0:
        return Baselines(), Detector([rule for rule in rules if rule.needs <= measurable])
    return Baselines((SIGNAL_BY_NAME["step_duration"],)), Detector(
        [rule for rule in rules if rule.name == "NonFinite"]
    )
