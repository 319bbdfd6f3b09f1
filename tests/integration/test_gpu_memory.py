"""The two rules about GPU memory in real GRPO runs whose GPU is a stand-in: no test machine has one.

Trainer, sampling thread, readers, signals, baselines and rules are the real ones; only what ``torch.cuda`` and NVML would
have answered comes from :class:`Device`, which counts as torch's caching allocator does.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from observing import ARRIVES_WITHIN_S, journal
from tiny import build_trainer
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback
from rlhf_otel.sources import torch_memory

MIB = 2**20
TOTAL = 1000 * MIB
SETTLED = 20
"""Steps before growth is looked at."""
STEPS = 60
RULES = {"GPUMemoryNearLimit", "GPUMemoryLeak"}


class Device:
    """One GPU: torch's caching allocator on it, as ``torch.cuda``, and its memory, as ``pynvml``."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, reserved: int, others: int = 0) -> None:
        self._live, self._reserved, self._others, self._retries = 0, reserved, others, 0
        self.looked_at = threading.Semaphore(0)

    def allocate(self, size: int) -> None:
        """Live tensors grow; where the device has no more, the cache is given back first, and the request tried again."""
        self._live += size
        if self._live > self._reserved and self._live + self._others > 0.97 * TOTAL:
            self._retries += 1
        self._reserved = min(max(self._live, self._reserved), int(0.97 * TOTAL) - self._others)

    def free(self, size: int) -> None:
        """Freed memory stays in the cache."""
        self._live -= size

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def memory_stats(self, ordinal: int) -> dict[str, int]:
        self.looked_at.release()
        return {
            "allocated_bytes.all.current": self._live,
            "reserved_bytes.all.current": self._reserved,
            "num_alloc_retries": self._retries,
        }

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=self._reserved + self._others, total=TOTAL)


class Working(TrainerCallback):
    """What each step allocates; every third one is looked at before the next."""

    def __init__(self, device: Device, needs: int, keeps: int) -> None:
        self._device, self._needs, self._keeps = device, needs, keeps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._device.allocate(self._needs)
        if state.global_step > SETTLED and state.global_step % 3 == 0:
            while self._device.looked_at.acquire(blocking=False):
                pass
            assert self._device.looked_at.acquire(timeout=ARRIVES_WITHIN_S)
        self._device.free(self._needs - self._keeps)


def fired(folder: Path, device: Device, monkeypatch: pytest.MonkeyPatch, needs: int, keeps: int) -> list[str]:
    """Those of the two rules that a run's journal tells of, in their order."""
    monkeypatch.setattr(torch_memory, "sys", SimpleNamespace(modules={"torch": SimpleNamespace(cuda=device)}))
    monkeypatch.setitem(sys.modules, "pynvml", device)
    device.allocate(200 * MIB)  # weights and optimizer
    telemetry = TelemetryCallback(journal=folder / "journal", metrics_port="off", system_interval_s=0.5)
    build_trainer(folder, [telemetry, Working(device, needs, keeps)], max_steps=STEPS).train()
    signals = journal(folder / "journal", "step")[-1]["values"]
    assert signals.keys() >= {"gpu_memory_used", "allocation_retries", "gpu_memory_growth"}
    return [a["rule"] for a in journal(folder / "journal", "anomaly") if a["rule"] in RULES]


@pytest.mark.slow
def test_tensors_that_are_kept_are_told_before_the_device_is_full_and_then_that_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(reserved=220 * MIB, others=100 * MIB)
    assert fired(tmp_path, device, monkeypatch, needs=40 * MIB, keeps=12 * MIB) == [
        "GPUMemoryLeak",
        "GPUMemoryNearLimit",
    ]


@pytest.mark.slow
def test_a_device_that_a_sampler_has_reserved_and_steps_that_free_what_they_took_are_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(reserved=400 * MIB, others=570 * MIB)
    assert fired(tmp_path, device, monkeypatch, needs=150 * MIB, keeps=0) == []
