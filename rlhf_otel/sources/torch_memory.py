"""torch's CUDA caching allocator, as it counts itself.

Reads counters that the allocator keeps anyway: no CUDA call, no synchronisation, no context that was
not there. A process without torch, or whose torch has not touched CUDA, has no samples.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple


class TorchMemorySample(NamedTuple):
    """The allocator on one device. Bytes, and counts since the process began."""

    device: str
    """torch's ordinal, such as ``0`` for ``cuda:0``."""
    allocated_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    """Since the process began, or since someone called ``torch.cuda.reset_peak_memory_stats``."""
    fragmentation_ratio: float | None
    """Reserved memory that no tensor uses, as a share of the reserved; None while nothing is reserved."""
    allocation_retries: int
    ooms: int


def read() -> tuple[TorchMemorySample, ...]:
    """One sample for each device on which this process's allocator has ever held memory."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    is_initialized = getattr(cuda, "is_initialized", None)  # absent while torch is being imported
    if cuda is None or is_initialized is None or not is_initialized():
        return ()
    samples = (_sample(cuda, ordinal) for ordinal in range(cuda.device_count()))
    return tuple(sample for sample in samples if sample is not None)


def _sample(cuda: Any, ordinal: int) -> TorchMemorySample | None:
    try:
        stats: Mapping[str, int] = cuda.memory_stats(ordinal)
    except RuntimeError:  # a pluggable allocator keeps no statistics
        return None
    reserved = stats.get("reserved_bytes.all.current", 0)
    retries, ooms = stats.get("num_alloc_retries", 0), stats.get("num_ooms", 0)
    if not (stats.get("reserved_bytes.all.peak", reserved) or retries or ooms):
        return None
    allocated = stats.get("allocated_bytes.all.current", 0)
    return TorchMemorySample(
        device=str(ordinal),
        allocated_bytes=allocated,
        reserved_bytes=reserved,
        peak_allocated_bytes=stats.get("allocated_bytes.all.peak", allocated),
        fragmentation_ratio=(reserved - allocated) / reserved if reserved else None,
        allocation_retries=retries,
        ooms=ooms,
    )
