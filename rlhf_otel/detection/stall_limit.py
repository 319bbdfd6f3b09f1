"""How long the step in progress may take before the run counts as stalled.

A usual step has a multiple of its usual time, but never less than a floor. What is no usual step (the first one,
which compiles; an evaluation; a checkpoint; what follows the last step) may take much longer, and how long is not
known before: it has a patience of its own, so that none of them pages, and one that hangs does so in the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rlhf_otel.catalogue.spans import ABSORBING
from rlhf_otel.detection.usual_steps import UsualSteps
from rlhf_otel.records import OpenPhase, Snapshot


class Absorbed(NamedTuple):
    """Evaluations and checkpoints so far in this attempt."""

    seconds: float = 0.0
    """All that they took, with the elapsed part of the one in progress."""
    longest: Mapping[str, float] = {}
    """Phase to the seconds that its longest took."""


class StallLimits:
    """The limits of one run, in seconds."""

    def __init__(self, floor_s: float, multiple: float, patience_s: float) -> None:
        """``multiple`` is of the usual time; ``patience_s`` the least that what is no usual step may take."""
        self._floor_s = floor_s
        self._multiple = multiple
        self._patience_s = max(patience_s, floor_s)
        self._usual = UsualSteps()
        self.step_s = self._patience_s
        """For a step without evaluations and checkpoints."""

    @property
    def usual_s(self) -> float | None:
        """What a step without evaluations and checkpoints usually takes at most; None before the first."""
        return self._usual.slowest_s

    def observe(self, kind: str, seconds: float, last: bool) -> None:
        """A step has ended that took so long without them; ``last``: and none is planned after it."""
        known = self.usual_s is not None
        self._usual.observe(kind, min(seconds, self.step_s) if known else seconds)
        self.step_s = max(
            self._floor_s, self._multiple * (self.usual_s or 0.0), self._patience_s if last else 0.0
        )

    def now_s(self, snapshot: Snapshot, absorbed: Absorbed, open_phase: OpenPhase | None) -> float:
        """For the step in progress as it is: what evaluations and checkpoints took of it comes on top, and so does
        the patience with one that is not over."""
        limit = snapshot.stall_threshold_s + max(0.0, absorbed.seconds - snapshot.absorbed_s)
        if open_phase is None or open_phase.phase not in ABSORBING:
            return limit
        longest = absorbed.longest.get(open_phase.phase, 0.0)
        return max(
            snapshot.stall_threshold_s,
            limit - open_phase.seconds + max(self._patience_s, self._multiple * longest),
        )
