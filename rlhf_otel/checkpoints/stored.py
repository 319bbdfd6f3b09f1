"""A tensor as it lies on disk: its name, type and shape, and its bytes, a piece at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlhf_otel.checkpoints.dtypes import DType
from rlhf_otel.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

ReadBytes = Callable[[int, "Bytes"], None]
"""Fills a buffer with the tensor's bytes from an offset on. Raises CheckpointError."""


class Place(NamedTuple):
    """Where a tensor's bytes lie one after another."""

    descriptor: int
    """Of the file, which is open as long as the tensor is referred to."""
    start: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint. Nothing of it is in memory."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    file: Path
    read: ReadBytes
    place: Place | None = None
    """None where they are not in a file as they are."""

    @property
    def count(self) -> int:
        """Number of elements; of a packed type the number of bytes."""
        return math.prod(self.shape) if self.dtype.bits >= 8 else self.bytes

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return (math.prod(self.shape) * self.dtype.bits + 7) // 8

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return max(1, self.dtype.bits // 8)

    @property
    def is_matrix(self) -> bool:
        """Whether it has rows and columns, rather than being a bias or a gain."""
        return sum(size > 1 for size in self.shape) >= 2

    def load(self) -> Bytes:
        """All of its bytes; for small tensors."""
        import numpy as np

        raw = np.empty(self.bytes, np.uint8)
        self.read(0, raw)
        return raw


def read_at(descriptor: int, start: int, file: Path) -> ReadBytes:
    """Reads from a file, not from a mapping of it: one that shrinks meanwhile is an error, not a bus error."""

    def read(offset: int, into: Bytes) -> None:
        view = into.data
        done = 0
        while done < len(view):
            try:
                count = os.preadv(descriptor, [view[done:]], start + offset + done)
            except OSError as error:
                raise CheckpointError(f"{file} cannot be read: {error.strerror}") from error
            if count == 0:
                raise CheckpointError(f"{file} became shorter while it was read; is it being written?")
            done += count

    return read
