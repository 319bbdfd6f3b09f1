"""GPU, allocator and host, sampled by a thread of their own; and the four system signals.

The training thread reads the latest sample and the signals; it never waits for a driver.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from rlhf_otel import faults
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.sources import torch_memory
from rlhf_otel.sources.gpu import GpuReader, GpuSample
from rlhf_otel.sources.host import HostReader, HostSample
from rlhf_otel.sources.memory_growth import StepGrowth, cautious_slope
from rlhf_otel.sources.torch_memory import TorchMemorySample

WINDOW_SECONDS: Final = 900.0
"""How far back "recent" reaches. Steps of large models take minutes; growth has to outlast several."""
BUCKET_SECONDS: Final = 30.0
"""Resolution within the window: 30 points, whatever the sampling interval is."""
SIGNIFICANT_GROWTH: Final = 0.05
"""Growth over the lowest observed memory below which a process counts as steady. Heuristic."""
SUSTAINED_GROWTH: Final = 0.01
"""... and the part of it that the rate must account for within the window: less is noise. Heuristic."""
STALE_INTERVALS: Final = 12
"""Intervals without a new sample (a driver that hangs) after which the signals are unknown."""
STOP_S: Final = 2.0
"""Bound for the end of the sampling thread; a driver may hang."""


class SystemSample(NamedTuple):
    """One reading of everything. Immutable; a part that could not be read is empty or None."""

    time_ns: int
    """Unix time."""
    gpus: tuple[GpuSample, ...]
    torch: tuple[TorchMemorySample, ...]
    """Labelled like ``gpus``, so that both join on ``device``."""
    host: HostSample | None


class GpuSource(Protocol):
    """What reads the GPUs; :class:`GpuReader` does."""

    def read(self) -> tuple[GpuSample, ...]: ...
    def close(self) -> None: ...


class HostSource(Protocol):
    """What reads the host; :class:`HostReader` does."""

    def read(self) -> HostSample: ...


class SystemSampler:
    """Samples every ``interval_s`` seconds between :meth:`start` and :meth:`stop`."""

    def __init__(
        self,
        interval_s: float = 5.0,
        *,
        ordinal: int | None = None,
        gpu: GpuSource | None = None,
        host: HostSource | None = None,
        torch: Callable[[], tuple[TorchMemorySample, ...]] = torch_memory.read,
        clock: Callable[[], float] = time.monotonic,
        warmup_s: float = 120.0,
        observation_s: float = 300.0,
    ) -> None:
        if not interval_s > 0:
            raise ConfigurationError(f"system interval is {interval_s!r}; allowed: more than 0 seconds")
        """``ordinal`` is the only visible device to report, in CUDA's order: the others are other ranks'."""
        self.latest: SystemSample | None = None
        self._ordinal = ordinal
        self._interval_s = interval_s
        self._gpu = gpu or GpuReader()
        self._host = host or HostReader()
        self._torch = torch
        self._clock = clock
        self._labels: tuple[str, ...] = ()
        self._retries = RecentIncrease()
        self._growth = MemoryGrowth(warmup_s, observation_s)
        self._process_growth = StepGrowth()
        self._device_growth: defaultdict[str, StepGrowth] = defaultdict(StepGrowth)
        self._grown_until: SystemSample | None = None
        self._growth_signals: dict[str, float] = {}
        self._signals: tuple[float, dict[str, float]] = (float("-inf"), {})
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begin to sample; the first reading, which may load a driver library, is the thread's too."""
        if self._thread is not None:
            return
        self._stopped = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopped,), name="rlhf-otel-system", daemon=True
        )
        self._thread.start()

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Stop sampling; returns after ``timeout_s`` at the latest, even when a driver hangs."""
        thread, self._thread = self._thread, None
        self._stopped.set()
        if thread is not None:
            thread.join(timeout_s)

    def signals(self) -> dict[str, float]:
        """The system signals of the catalogue that are known now; none once the samples have become stale."""
        sampled_at, signals = self._signals
        if self._clock() - sampled_at > STALE_INTERVALS * self._interval_s:
            return {}
        return signals.copy()

    def growth(self, step: int) -> dict[str, float]:
        """The signals of memory that grows with the steps, the run having reached ``step``."""
        sample = self.latest
        if sample is not None and sample is not self._grown_until:
            self._grown_until, self._growth_signals = sample, self._step_growth(step, sample)
        return self._growth_signals

    def _step_growth(self, step: int, sample: SystemSample) -> dict[str, float]:
        found: dict[str, float | None] = {}
        if sample.host is not None:
            found["process_memory_growth"] = self._process_growth.add(step, sample.host.private_bytes)
        devices = [self._device_growth[d.device].add(step, d.allocated_bytes) for d in sample.torch]
        found["gpu_memory_growth"] = max((each for each in devices if each is not None), default=None)
        return {name: growth for name, growth in found.items() if growth is not None}

    def sample_once(self) -> SystemSample:
        """Read everything now; a part that fails is left out. The thread calls this."""
        gpus: tuple[GpuSample, ...] = ()
        torch: tuple[TorchMemorySample, ...] = ()
        host: HostSample | None = None
        with faults.isolated("system", "reading the GPU through NVML"):
            gpus = self._gpu.read()
        with faults.isolated("system", "reading torch's memory statistics"):
            torch = self._labelled(self._torch(), gpus)
        gpus, torch = self._own(gpus, torch)
        with faults.isolated("system", "reading process and host"):
            host = self._host.read()
        sample = SystemSample(time.time_ns(), gpus, torch, host)
        self._signals = (self._clock(), self._derive(sample))
        self.latest = sample
        return sample

    def _run(self, stopped: threading.Event) -> None:
        while not stopped.is_set():
            with faults.isolated("system", "deriving the system signals"):
                self.sample_once()
            stopped.wait(self._interval_s)
        self._gpu.close()

    def _labelled(
        self, torch: tuple[TorchMemorySample, ...], gpus: tuple[GpuSample, ...]
    ) -> tuple[TorchMemorySample, ...]:
        """torch counts the visible devices from 0: name them as NVML does, also while NVML is failing."""
        if gpus:
            self._labels = tuple(gpu.device for gpu in gpus)
        labels = {str(ordinal): label for ordinal, label in enumerate(self._labels)}
        return tuple(sample._replace(device=labels.get(sample.device, sample.device)) for sample in torch)

    def _own(
        self, gpus: tuple[GpuSample, ...], torch: tuple[TorchMemorySample, ...]
    ) -> tuple[tuple[GpuSample, ...], tuple[TorchMemorySample, ...]]:
        if self._ordinal is None:
            return gpus, torch
        own = dict(enumerate(self._labels)).get(self._ordinal, str(self._ordinal))
        return tuple(g for g in gpus if g.device == own), tuple(t for t in torch if t.device == own)

    def _derive(self, sample: SystemSample) -> dict[str, float]:
        now = self._clock()
        signals: dict[str, float] = {}
        used = [
            gpu.memory_used_bytes / gpu.memory_total_bytes
            for gpu in sample.gpus
            if gpu.memory_used_bytes is not None and gpu.memory_total_bytes
        ]
        if used:
            signals["gpu_memory_used"] = max(used)
        recent = self._retries.add(now, sum(device.allocation_retries for device in sample.torch))
        if sample.torch:
            signals["allocation_retries"] = float(recent)
        if sample.host is not None:
            signals |= self._derive_host(now, sample.host)
        return signals

    def _derive_host(self, now: float, host: HostSample) -> dict[str, float]:
        if not host.memory_total_bytes:
            return {}
        signals = {"host_memory_used": 1 - host.memory_available_bytes / host.memory_total_bytes}
        rate = self._growth.add(now, host.resident_bytes)
        if rate is not None:
            signals["host_memory_exhaustion"] = host.memory_available_bytes / rate
        return signals


class RecentIncrease:
    """Increase of a counter within :data:`WINDOW_SECONDS`. What it held at first sight is not recent."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._sum = 0
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, count: int) -> int:
        """Take the counter's value; returns its recent increase. A counter that falls has been reset to 0."""
        if self._last is not None:
            self._sum += count - self._last if count >= self._last else count
        self._last = count
        if not self._points or now - self._points[-1][0] >= BUCKET_SECONDS:
            self._points.append((now, self._sum))
        while len(self._points) > 1 and now - self._points[1][0] >= WINDOW_SECONDS:
            self._points.popleft()
        return self._sum - self._points[0][1]


class MemoryGrowth:
    """Rate at which a process's memory has lately been growing.

    Points are the lowest of each bucket, which leaves out what a step needs for a moment. At most 31 points,
    so the cost is bounded: below 0.1 ms every 30 s.
    """

    def __init__(self, warmup_s: float, observation_s: float) -> None:
        self._warmup_s = warmup_s
        """Start-up allocation (model, optimizer, caches) is no growth: nothing is observed before."""
        self._observation_s = observation_s
        """Time that has to be observed before there is a rate: less, and a saw-tooth whose period is close to
        the bucket's looks like a ramp."""
        self._begin: float | None = None
        self._bucket_begin = 0.0
        self._bucket: tuple[int, float] | None = None
        self._lowest: int | None = None
        self._points: deque[tuple[int, float]] = deque(maxlen=int(WINDOW_SECONDS / BUCKET_SECONDS) + 1)
        self._rate: float | None = None

    def add(self, now: float, value: int) -> float | None:
        """Take the present bytes; returns the growth in bytes per second, None while insignificant."""
        if self._begin is None:
            self._begin = now
        if now - self._begin < self._warmup_s:
            return None
        if self._bucket is not None and now - self._bucket_begin < BUCKET_SECONDS:
            self._bucket = min(self._bucket, (value, now))
            return self._rate
        if self._bucket is not None:
            self._close_bucket(self._bucket)
        self._bucket, self._bucket_begin = (value, now), now
        return self._rate

    def _close_bucket(self, point: tuple[int, float]) -> None:
        self._points.append(point)
        self._lowest = point[0] if self._lowest is None else min(self._lowest, point[0])
        self._rate = self._estimate(self._lowest)

    def _estimate(self, lowest: int) -> float | None:
        points = list(self._points)
        (newest, at), (_, first) = points[-1], points[0]
        if len(points) < 3 or at - first < self._observation_s:
            return None
        if newest < lowest * (1 + SIGNIFICANT_GROWTH):
            return None
        rate = cautious_slope(points)
        return rate if rate * (at - first) > SUSTAINED_GROWTH * lowest else None
