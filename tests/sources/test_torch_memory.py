"""torch's allocator statistics. CUDA is simulated by the keys of ``torch.cuda.memory_stats``; no GPU here."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from rlhf_otel.sources import torch_memory
from rlhf_otel.sources.torch_memory import TorchMemorySample

MIB = 2**20
UNUSED = {"allocated_bytes.all.current": 0, "reserved_bytes.all.current": 0, "reserved_bytes.all.peak": 0}
USED = {
    "allocated_bytes.all.current": 300 * MIB,
    "allocated_bytes.all.peak": 700 * MIB,
    "reserved_bytes.all.current": 1000 * MIB,
    "reserved_bytes.all.peak": 1000 * MIB,
    "num_alloc_retries": 4,
    "num_ooms": 1,
}


class FakeCuda:
    """``torch.cuda`` with per-device statistics. Anything else that is touched fails the test."""

    def __init__(self, *stats: dict[str, int], initialized: bool = True) -> None:
        self._stats = stats
        self._initialized = initialized

    def is_initialized(self) -> bool:
        return self._initialized

    def device_count(self) -> int:
        assert self._initialized, "counting devices before CUDA is initialised may initialise it"
        return len(self._stats)

    def memory_stats(self, ordinal: int) -> dict[str, int]:
        assert self._initialized
        return self._stats[ordinal]


def install(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    torch = ModuleType("torch")
    if cuda is not None:
        torch.cuda = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)


def test_statistics_of_the_devices_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(UNUSED, USED))
    assert torch_memory.read() == (
        TorchMemorySample(
            device="1",
            allocated_bytes=300 * MIB,
            reserved_bytes=1000 * MIB,
            peak_allocated_bytes=700 * MIB,
            fragmentation_ratio=0.7,
            allocation_retries=4,
            ooms=1,
        ),
    )


def test_an_emptied_cache_has_no_fragmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, FakeCuda(USED | {"allocated_bytes.all.current": 0, "reserved_bytes.all.current": 0}))
    (sample,) = torch_memory.read()
    assert sample.reserved_bytes == 0
    assert sample.fragmentation_ratio is None


@pytest.mark.parametrize(
    "cuda",
    [None, SimpleNamespace(), FakeCuda(USED, initialized=False), FakeCuda()],
    ids=["being imported", "cuda being imported", "not initialised", "no device"],
)
def test_nothing_to_read(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    install(monkeypatch, cuda)
    assert torch_memory.read() == ()


def test_an_allocator_without_statistics_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(USED)

    def unsupported(ordinal: int) -> dict[str, int]:
        raise RuntimeError("CUDAPluggableAllocator does not yet support getDeviceStats.")

    monkeypatch.setattr(cuda, "memory_stats", unsupported)
    install(monkeypatch, cuda)
    assert torch_memory.read() == ()


def test_a_process_without_torch_stays_without() -> None:
    program = (
        "import sys\n"
        "from rlhf_otel.sources import system\n"
        "assert system.torch_memory.read() == ()\n"
        "system.SystemSampler().sample_once()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_real_torch_without_cuda_is_not_initialised_by_reading() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_initialized():
        pytest.skip("CUDA is in use in this process")
    assert torch_memory.read() == ()
    assert not torch.cuda.is_initialized()
