"""The native kernel: moments of bfloat16 in one pass over the codes, where numpy takes several.

It is there if a C compiler was when the package was built. Without it the same is found out, more slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_otel.checkpoints.dtypes import DType, Glance
from rlhf_otel.checkpoints.statistics import Moments, of_sums
from rlhf_otel.checkpoints.stored import StoredTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]
    Found = tuple[float, float, float, float, int]

bf16: Callable[[Bytes], Found] | None
"""Sum, sum of squares, lowest, highest, zeros; None where there is no kernel."""
bf16_in_file: Callable[[int, int, int, Bytes], Found] | None
"""The same of bytes of a file: descriptor, position, how many, and the buffer that they are read into."""
try:
    from rlhf_otel.checkpoints._one_pass import bf16, bf16_in_file
except ImportError:
    bf16 = bf16_in_file = None


def is_known(dtype: DType) -> bool:
    """Whether the kernel is there and knows the type."""
    return bf16 is not None and dtype.name == "BF16"


def moments_of(dtype: DType, raw: Bytes) -> Moments | None:
    """None where the kernel is not there or does not know the type, or where sums do not tell."""
    if bf16 is None or not is_known(dtype) or not len(raw):
        return None
    total, square, low, high, zeros = bf16(raw)
    return of_sums(len(raw) // 2, Glance(low, high, zeros), total, square)


def moments_in_file(tensor: StoredTensor, start: int, stop: int, room: Bytes) -> Moments | None:
    """Of some of its numbers, read and computed with in one call, so that threads don't wait for one another's interpreter.
    None also where they do not lie in a file one after another, or cannot be read: who reads them then says why."""
    if bf16_in_file is None or not is_known(tensor.dtype) or tensor.place is None or start == stop:
        return None
    position = tensor.place.start + tensor.width * start
    try:
        found = bf16_in_file(tensor.place.descriptor, position, tensor.width * (stop - start), room)
    except (OSError, EOFError):
        return None
    total, square, low, high, zeros = found
    return of_sums(stop - start, Glance(low, high, zeros), total, square)
