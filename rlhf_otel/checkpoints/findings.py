"""A finding: what is wrong, where, and by which numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rlhf_otel.catalogue.checkpoints import FINDING_BY_NAME, FindingKind
from rlhf_otel.catalogue.rules import Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a checkpoint."""

    name: str
    """Name of its kind in the catalogue."""
    where: str
    """Tensor or file."""
    evidence: str
    """The numbers that say so."""

    @property
    def kind(self) -> FindingKind:
        """Meaning, advice and damage."""
        return FINDING_BY_NAME[self.name]

    @property
    def severity(self) -> Severity:
        """What a person does about it."""
        return self.kind.severity


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """By damage, then in the order in which they were found."""
    return sorted(findings, key=lambda finding: -finding.kind.damage)
