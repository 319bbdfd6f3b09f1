"""One pass over tensors: pieces that fit into the caches, on a few threads, in bounded memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Final, NamedTuple

from rlhf_otel.checkpoints.dtypes import DType, decode, decode_anyhow, glance
from rlhf_otel.checkpoints.kernel import moments_in_file, moments_of
from rlhf_otel.checkpoints.statistics import Moments, moments, square
from rlhf_otel.checkpoints.stored import StoredTensor
from rlhf_otel.errors import CheckpointError

CHUNK: Final = 1 << 20
"""Elements that are read and computed with at once: 4 MB in single precision. Threads hand the interpreter over for each of
the few operations on them, which takes as long as the operation itself where they are smaller."""
ROOM: Final = 1 << 18
"""Bytes that the native kernel reads at once: they stay in the second-level cache until it has computed with them."""
PIECE: Final = CHUNK * 4
"""Elements that a thread takes on at once."""


class Change(NamedTuple):
    """How far numbers moved."""

    square: float = 0.0
    """Sum of squares of the differences."""
    before: float = 0.0
    """Sum of squares of the earlier numbers."""
    after: float = 0.0
    product: float = 0.0
    """Sum of products of earlier and later numbers."""
    changed: int = 0
    """How many differ."""
    size: int = 0
    """How many there are."""

    def plus(self, other: Change) -> Change:
        """Of both together."""
        return Change(*(one + another for one, another in zip(self, other, strict=True)))  # type: ignore[arg-type]

    @property
    def changed_ratio(self) -> float:
        """Share of the numbers that differ."""
        return self.changed / self.size if self.size else 0.0

    @property
    def drift(self) -> float:
        """‖Δ‖/‖w‖; infinite where w is all zero and is no more."""
        if not self.square:
            return 0.0
        return (self.square / self.before) ** 0.5 if self.before else float("inf")

    @property
    def cosine(self) -> float | None:
        """Cosine between then and now; None where one of them is all zero."""
        length = (self.before * self.after) ** 0.5
        return max(-1.0, min(1.0, self.product / length)) if length else None


class Measured(NamedTuple):
    """What a pass found out about one tensor."""

    moments: Moments
    change: Change | None = None
    error: str = ""
    """Why it could not be read; the others are then of no use."""


Pair = tuple[StoredTensor, StoredTensor | None]


def measure(tensors: Sequence[Pair], threads: int | None = None, rest: float = 0.0) -> list[Measured]:
    """Statistics of each tensor, and its change from the second of each pair where there is one. After each piece a thread
    rests for ``rest`` times as long as it worked."""
    workers = threads or min(os.cpu_count() or 1, 8)
    found = [Measured(Moments(), Change() if before is not None else None) for _, before in tensors]
    with ThreadPoolExecutor(workers, thread_name_prefix="rlhf_otel-measure") as pool:
        pieces = _pieces(tensors)
        pending: dict[Future[Measured], int] = {}
        while True:
            for position, start, stop in islice(pieces, 2 * workers - len(pending)):
                pending[pool.submit(_piece, tensors[position], start, stop, rest)] = position
            if not pending:
                return found
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                position = pending.pop(future)
                found[position] = _plus(found[position], future.result())


def _pieces(tensors: Sequence[Pair]) -> Iterator[tuple[int, int, int]]:
    for position, (tensor, _) in enumerate(tensors):
        for start in range(0, tensor.count, PIECE):
            yield position, start, min(start + PIECE, tensor.count)


def _plus(one: Measured, other: Measured) -> Measured:
    change = one.change.plus(other.change) if one.change and other.change else None
    return Measured(one.moments.plus(other.moments), change, one.error or other.error)


def _piece(pair: Pair, start: int, stop: int, rest: float) -> Measured:
    began = time.perf_counter()
    try:
        return (
            _compare(pair[0], pair[1], start, stop) if pair[1] is not None else _alone(pair[0], start, stop)
        )
    except CheckpointError as error:
        return Measured(Moments(), error=str(error))
    finally:
        if rest:
            time.sleep(rest * (time.perf_counter() - began))


_buffers = threading.local()


def _buffer(name: str, size: int, kind: str) -> Any:
    """Memory that a thread uses again for each chunk: new pages would cost more than what is computed."""
    import numpy as np

    known = getattr(_buffers, name, None)
    if known is None or len(known) < size:
        known = np.empty(size, kind)
        setattr(_buffers, name, known)
    return known


def _alone(tensor: StoredTensor, start: int, stop: int) -> Measured:
    told = moments_in_file(tensor, start, stop, _buffer("room", ROOM, "u1"))
    if told is not None:
        return Measured(told)
    found = Moments()
    raw = _buffer("raw", CHUNK * tensor.width, "u1")
    for first in range(start, stop, CHUNK):
        piece = raw[: (min(first + CHUNK, stop) - first) * tensor.width]
        tensor.read(first * tensor.width, piece)
        found = found.plus(moments_of(tensor.dtype, piece) or _by_numpy(tensor.dtype, piece))
    return Measured(found)


def _by_numpy(dtype: DType, raw: Any) -> Moments:
    return moments(decode_anyhow(dtype, raw, _buffer("wide", CHUNK, "u4")), glance(dtype, raw))


def _compare(after: StoredTensor, before: StoredTensor, start: int, stop: int) -> Measured:
    """Decoded in any order where both are alike, since the order is then the same."""
    found, change = Moments(), Change()
    alike = after.dtype == before.dtype
    raw = _buffer("raw", CHUNK * after.width, "u1"), _buffer("raw_before", CHUNK * before.width, "u1")
    wide = _buffer("wide", CHUNK, "u4"), _buffer("wide_before", CHUNK, "u4")
    for first in range(start, stop, CHUNK):
        pieces, numbers = [], []
        for tensor, buffer, scratch in zip((after, before), raw, wide, strict=True):
            piece = buffer[: (min(first + CHUNK, stop) - first) * tensor.width]
            tensor.read(first * tensor.width, piece)
            pieces.append(piece)
            numbers.append(
                decode_anyhow(tensor.dtype, piece, scratch) if alike else decode(tensor.dtype, piece)
            )
        now = moments_of(after.dtype, pieces[0]) or moments(numbers[0])
        found = found.plus(now)
        change = change.plus(_change(numbers[0], numbers[1], now))
    return Measured(found, change)


def _change(after: Any, before: Any, now: Moments) -> Change:
    """What is not finite counts as changed where it was not so before, and is left out of the sums."""
    import numpy as np

    was, size = square(before), len(after)
    changed = int(np.count_nonzero(after != before))
    if now.nonfinite or not np.isfinite(was):
        both_nan = int(np.count_nonzero(np.isnan(after) & np.isnan(before)))
        changed -= both_nan
        good = np.isfinite(after) & np.isfinite(before)
        after, before = after[good].astype(np.float64), before[good].astype(np.float64)
        was = square(before)
    if not changed:
        return Change(0.0, was, was, was, 0, size)
    difference = after - before
    return Change(square(difference), was, square(after), float(np.dot(after, before)), changed, size)


def numbers_of(tensor: StoredTensor) -> Any:
    """All of a small tensor, in order and shape, in double precision."""
    import numpy as np

    return decode(tensor.dtype, tensor.load()).astype(np.float64).reshape(tensor.shape)
