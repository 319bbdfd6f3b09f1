"""A run as a report tells it: what its log holds, by kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.detection.waste import WasteTotals
from rlhf_otel.records import Anomaly, RunEnd, RunIdentity
from rlhf_otel.report.curves import Curve

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that fired, and what is known about it."""

    anomaly: Anomaly
    last_step: int
    """Last step in breach."""
    summary: str
    why: str
    """The evidence in words."""
    actions: tuple[str, ...] = ()
    """What followed."""

    @property
    def span(self) -> str:
        """Its steps, for people."""
        first = self.anomaly.first_step
        return f"step {first}" if first == self.last_step else f"steps {first} to {self.last_step}"


@dataclass(frozen=True, slots=True)
class Stalled:
    """A step that took longer than it may."""

    step: int
    phase: str
    """In which it was then; empty where in none."""
    seconds: float
    """Of the step, until it was told."""
    limit_s: float
    """What the step might take."""
    stacks: str
    """File with the stacks of all threads; empty where none were taken."""
    gil_held: bool


@dataclass(slots=True)
class Phases:
    """Where the time went: each phase's own seconds in each stretch of the run."""

    stretches: list[int] = field(default_factory=list)
    """First step of each."""
    seconds: list[dict[str, float]] = field(default_factory=list)
    """By phase, a mapping for each stretch."""
    slowest: list[tuple[int, float, str]] = field(default_factory=list)
    """Steps, seconds, and what took most of it; the slowest first."""

    def totals(self) -> dict[str, float]:
        """Seconds by phase over the run, the largest first."""
        found: dict[str, float] = {}
        for stretch in self.seconds:
            for phase, seconds in stretch.items():
                found[phase] = found.get(phase, 0.0) + seconds
        return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(slots=True)
class Story:
    """One run. What its log does not hold is empty."""

    path: Path
    format: str
    identity: RunIdentity
    judged_live: bool
    """Whether findings are those of the run itself; else the log was judged afterwards."""
    steps: list[int] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    """By signal."""
    functions: dict[str, Curve] = field(default_factory=dict)
    """Mean reward by reward function."""
    deviations: dict[str, Curve] = field(default_factory=dict)
    """Standard deviation by reward function."""
    histograms: dict[str, list[tuple[int, Record]]] = field(default_factory=dict)
    """By reward function the first and the last step with its histogram."""
    unmapped: dict[str, Curve] = field(default_factory=dict)
    """Keys that the catalogue does not know."""
    findings: list[Finding] = field(default_factory=list)
    attempts: list[Record] = field(default_factory=list)
    """Its ``run`` records."""
    epochs: list[Record] = field(default_factory=list)
    evaluations: list[Record] = field(default_factory=list)
    checkpoints: list[Record] = field(default_factory=list)
    analyses: list[Record] = field(default_factory=list)
    stalls: list[Stalled] = field(default_factory=list)
    """Of rank 0, in their order."""
    others: dict[str, list[Record]] = field(default_factory=dict)
    """Records of further types, by type."""
    phases: Phases = field(default_factory=Phases)
    waste: WasteTotals = field(default_factory=WasteTotals)
    """What of the time was in vain."""
    end: RunEnd | None = None
    config: Record = field(default_factory=dict)
    environment: Record = field(default_factory=dict)
    began_s: float | None = None
    """Unix time; None where the log has no times."""
    ended_s: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What people call it."""
        return self.identity.run_name or self.identity.run_id or self.path.name

    @property
    def seconds(self) -> float | None:
        """Wall time from its begin to the last that is known of it."""
        if self.began_s is None or self.ended_s is None:
            return None
        return max(0.0, self.ended_s - self.began_s)

    def count(self, severity: Severity) -> int:
        """Findings of a severity."""
        return sum(found.anomaly.severity is severity for found in self.findings)
