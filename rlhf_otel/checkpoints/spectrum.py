"""Singular values: the spectral norm of small matrices, and of a low-rank update B·A without forming it."""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

MAX_ELEMENTS: Final = 1 << 18
MAX_SIDE: Final = 256
"""Of matrices with more elements, or of which both sides are larger, the spectral norm is not computed."""


class Spectrum(NamedTuple):
    """Of a low-rank update ΔW = s·B·A."""

    rank: int
    """Rank that it could have."""
    effective_rank: float
    """exp of the entropy of the normalised singular values (Roy, Vetterli 2007): 1 to ``rank``, 0 of zeros."""
    norm: float
    """Frobenius norm."""
    spectral_norm: float


def is_cheap(shape: tuple[int, ...]) -> bool:
    """Whether the spectral norm of a matrix of this shape costs less than reading it."""
    return len(shape) >= 2 and 0 < math.prod(shape) <= MAX_ELEMENTS and _smaller_side(shape) <= MAX_SIDE


def _smaller_side(shape: tuple[int, ...]) -> int:
    return min(shape[0], math.prod(shape[1:]))


def spectral_norm(matrix: Any) -> float:
    """Largest singular value, by the eigenvalues of the smaller product of the matrix with itself."""
    import numpy as np

    rows = matrix.reshape(len(matrix), -1)
    rows = rows if len(rows) <= rows.shape[1] else rows.T
    largest = float(np.linalg.eigvalsh(rows @ rows.T)[-1])
    return math.sqrt(max(0.0, largest))


def low_rank_spectrum(a: Any, b: Any, scale: float = 1.0) -> Spectrum:
    """Of ``scale · b @ a`` with b (out × r) and a (r × in): by the QR factors, so that only r × r is decomposed."""
    import numpy as np

    a, b = a.reshape(len(a), -1), b.reshape(-1, len(a))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Spectrum(len(a), math.nan, math.nan, math.nan)
    upper_b: Any = np.linalg.qr(b, mode="r")
    upper_a: Any = np.linalg.qr(a.T, mode="r")
    values = abs(scale) * np.linalg.svd(upper_b @ upper_a.T, compute_uv=False)
    norm = float(np.linalg.norm(values))
    return Spectrum(len(a), effective_rank(values), norm, float(values.max(initial=0.0)))


def effective_rank(values: Any) -> float:
    """exp of the entropy of normalised singular values; 0 where all are zero."""
    total = float(values.sum())
    if not total:
        return 0.0
    shares = values[values > 0] / total
    shares = shares[shares > 0]
    return math.exp(-math.fsum(share * math.log(share) for share in shares.tolist()))
