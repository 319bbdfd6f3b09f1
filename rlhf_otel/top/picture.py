"""What is seen of a process of a run: the same from a journal as from an endpoint."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

HISTORY: Final = 240
"""Values of a signal that are kept: a terminal is hardly wider."""


@dataclass(slots=True)
class Picture:
    """One rank of one run, as far as it is known."""

    run: str
    rank: int = 0
    name: str = ""
    algorithm: str = ""
    step: int = 0
    planned: int = 0
    state: str = "running"
    """``running``, an outcome of ``catalogue.spans.Outcome``, or why nothing is heard."""
    heard_s: float = 0.0
    """Unix time of its last progress; 0 where unknown."""
    signals: dict[str, deque[float]] = field(default_factory=dict)
    """Signal to its latest finite values, one a step, or one a look."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, so far."""
    anomalies: dict[str, tuple[str, int, bool]] = field(default_factory=dict)
    """Rule to severity, first step, and whether it is active."""
    phase: str = ""
    """Where its training thread is, by an endpoint, or stalls, by a journal; empty where unknown."""
    stalls: int = 0
    """Steps that took longer than they may: of the attempt by an endpoint, of the run by a journal."""
    gpus: dict[str, dict[str, float]] = field(default_factory=dict)
    """Device to utilization and memory (0 to 1), power and temperature."""

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{self.run}/{self.rank}"

    def add(self, signal: str, value: float) -> None:
        """The signal's next value; one that is no number is left out."""
        if value - value == 0.0:
            self.signals.setdefault(signal, deque(maxlen=HISTORY)).append(value)

    def worst(self) -> str:
        """Severity of what is active; empty where nothing is."""
        active = {severity for severity, _, on in self.anomalies.values() if on}
        return next((each for each in ("critical", "warning", "info") if each in active), "")
