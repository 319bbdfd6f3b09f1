"""Health of a checkpoint: 0 to 1, where the worst finding dominates.

    health = (1 − d₁) · (1 − 0.1 · (1 − ∏ᵢ₌₂ (1 − dᵢ)))

d₁ is the largest damage among the findings' kinds, d₂ ... those of the others: together they take at most a
tenth of what the worst one leaves. So health never rises with a further or a worse finding, a single fatal
one makes it 0, and many small ones never look like a fatal one. Without findings it is 1.
"""

from __future__ import annotations

from collections.abc import Iterable

from rlhf_otel.catalogue.health import health_of
from rlhf_otel.checkpoints.findings import Finding


def health(findings: Iterable[Finding]) -> float:
    """Health of what has these findings. Each kind counts once: ten NaN tensors are one failure."""
    kinds = {finding.name: finding.kind.damage for finding in findings}
    return health_of(kinds.values())
