"""The native kernel: moments of bfloat16 in one pass over the codes, where numpy takes several.

It is there if a C compiler was when the package was built. Without it the same is found out, more slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_otel.checkpoints.dtypes import DType, Glance
from rlhf_otel.checkpoints.statistics import Moments, of_sums

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

bf16: Callable[[Bytes], tuple[float, float, float, float, int]] | None
"""Sum, sum of squares, lowest, highest, zeros; None where there is no kernel."""
try:
    from rlhf_otel.checkpoints import _one_pass
except ImportError:
    bf16 = None
else:
    bf16 = _one_pass.bf16


def is_known(dtype: DType) -> bool:
    """Whether the kernel is there and knows the type."""
    return bf16 is not None and dtype.name == "BF16"


def moments_of(dtype: DType, raw: Bytes) -> Moments | None:
    """None where the kernel is not there or does not know the type, or where sums do not tell."""
    if bf16 is None or not is_known(dtype) or not len(raw):
        return None
    total, square, low, high, zeros = bf16(raw)
    return of_sums(len(raw) // 2, Glance(low, high, zeros), total, square)
