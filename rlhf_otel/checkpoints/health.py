"""Health of a checkpoint: 0 to 1, where the worst finding dominates.

    health = (1 − d₁) · (1 − 0.1 · (1 − ∏ᵢ₌₂ (1 − dᵢ)))

d₁ is the largest damage among the findings' kinds, d₂ ... those of the others: together they take at most a
tenth of what the worst one leaves. So health never rises with a further or a worse finding, a single fatal
one makes it 0, and many small ones never look like a fatal one. Without findings it is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

from rlhf_otel.checkpoints.findings import Finding

REST: Final = 0.1
"""Share of the health that all findings but the worst can take together."""


def health(findings: Iterable[Finding]) -> float:
    """Health of what has these findings. Each kind counts once: ten NaN tensors are one failure."""
    kinds = {finding.name: finding.kind.damage for finding in findings}
    return health_of(kinds.values())


def health_of(damages: Iterable[float]) -> float:
    """Health by the damages alone."""
    worst, *others = sorted(damages, reverse=True) or [0.0]
    return (1.0 - worst) * (1.0 - REST * (1.0 - math.prod(1.0 - damage for damage in others)))
