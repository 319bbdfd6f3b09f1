"""GPUs through NVML: memory, load, temperature, power, clocks, throttling, ECC and XID errors.

Reads the devices that CUDA shows to this process, whoever uses them. No driver or no library means no
GPU, which is no fault. NVML failing later (a lost GPU, a driver restart) is one, recorded once per
outage; until it answers again there are no samples, rather than old ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from rlhf_otel import faults

RETRY_SECONDS: Final = 60.0
"""Pause between attempts to initialise NVML anew; an attempt may take seconds while a driver restarts."""

THROTTLE_REASONS: Final[Mapping[str, int]] = {
    "power_cap": 0x04,
    "hw_slowdown": 0x08,
    "sync_boost": 0x10,
    "sw_thermal": 0x20,
    "hw_thermal": 0x40,
    "hw_power_brake": 0x80,
}
"""Label value to its bit in NVML's clocks event reasons. Idle and application clocks are no throttling."""

# NVML return codes and enum values; they are part of its ABI and do not change.
_UNINITIALIZED, _DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND = 1, 9, 12
_GPU_IS_LOST, _RESET_REQUIRED, _VERSION_MISMATCH = 15, 16, 18
_NO_GPU: Final = frozenset({_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND})
_OUTAGE: Final = frozenset(
    {_UNINITIALIZED, _DRIVER_NOT_LOADED, _GPU_IS_LOST, _RESET_REQUIRED, _VERSION_MISMATCH}
)
"""Codes that speak of the device or the driver; any other concerns only the value that was asked for."""
_SM_CLOCK, _MEMORY_CLOCK, _CORE_SENSOR = 1, 2, 0
_UNCORRECTED, _VOLATILE = 1, 0
_XID_EVENT: Final = 0x08
_MAX_EVENTS: Final = 256
"""XID events taken in one read; a device that floods its log must not hold the sampler."""


class GpuSample(NamedTuple):
    """One device at one moment. What NVML does not support there is None, never 0."""

    device: str
    """NVML index, which ``nvidia-smi`` shows; for a MIG device ``<index>:<MIG index>``."""
    memory_used_bytes: int | None = None
    """Used by all processes, what the driver reserves included."""
    memory_total_bytes: int | None = None
    utilization_ratio: float | None = None
    temperature_celsius: float | None = None
    power_watts: float | None = None
    sm_clock_hertz: float | None = None
    memory_clock_hertz: float | None = None
    throttle: Mapping[str, bool] = {}
    """Every reason of :data:`THROTTLE_REASONS`; empty where NVML does not tell."""
    ecc_uncorrected: int | None = None
    """Since the driver was loaded."""
    xid_errors: int | None = None
    """Since the first read of this process."""


class _Device(NamedTuple):
    label: str
    number: int
    """NVML index of the board."""
    handle: Any
    """The device that this process computes on: memory is its own."""
    board: Any
    """The physical GPU: power, clocks and temperature belong to it. Differs from ``handle`` under MIG."""


class GpuReader:
    """Reads the visible GPUs. Not thread-safe: one thread reads and closes."""

    def __init__(self, nvml: Any = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._clock = clock
        self._devices: tuple[_Device, ...] | None = None
        self._events: Any = None
        self._xids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._was_open = False
        self._absent = False
        self._failing = False
        self._retry_at = float("-inf")

    def read(self) -> tuple[GpuSample, ...]:
        """One sample a device, in CUDA's order; empty without a GPU and while NVML fails."""
        if self._absent or self._clock() < self._retry_at:
            return ()
        try:
            samples = self._read()
        except Exception as error:  # noqa: BLE001 (recorded as a fault; NVML wrappers raise more than NVMLError)
            self._fail(error)
            return ()
        self._failing = False
        return samples

    def close(self) -> None:
        """Give NVML back. A later read opens it again."""
        events, self._events = self._events, None
        was_open, self._devices = self._devices is not None, None
        if events is not None:
            with contextlib.suppress(Exception):
                self._nvml.nvmlEventSetFree(events)
        if was_open:
            with contextlib.suppress(Exception):
                self._nvml.nvmlShutdown()

    def _read(self) -> tuple[GpuSample, ...]:
        if self._devices is None and not self._open():
            return ()
        assert self._devices is not None
        self._count_xids()
        return tuple(self._sample(device) for device in self._devices)

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            faults.record("system", error, "reading the GPU through NVML")
        self._failing = True
        self._retry_at = self._clock() + RETRY_SECONDS
        self.close()

    def _open(self) -> bool:
        """Initialise NVML and find the visible devices; False, for good, where there is no GPU to read."""
        if not self._initialise():
            self._absent = True
            return False
        self._devices = ()
        self._was_open = True
        boards = self._boards()
        self._devices = self._visible(boards)
        self._watch_xids()
        return True

    def _initialise(self) -> bool:
        if self._nvml is None:
            try:
                self._nvml = importlib.import_module("pynvml")
            except ImportError:
                return False
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError as error:
            if error.value in _NO_GPU and not self._was_open:
                return False
            raise
        return True

    def _boards(self) -> dict[int, Any]:
        """Handles of the physical GPUs by NVML index, without those that NVML refuses to this process."""
        boards: dict[int, Any] = {}
        refusal: Exception | None = None
        for index in range(self._nvml.nvmlDeviceGetCount()):
            try:
                boards[index] = self._nvml.nvmlDeviceGetHandleByIndex(index)
            except self._nvml.NVMLError as error:
                refusal = error
        if refusal is not None and not boards:
            raise refusal
        return boards

    def _visible(self, boards: Mapping[int, Any]) -> tuple[_Device, ...]:
        """CUDA's reading of CUDA_VISIBLE_DEVICES: it stops at an invalid entry and refuses repetitions."""
        wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
        if wanted is None:
            return tuple(_Device(str(index), index, board, board) for index, board in boards.items())
        devices: dict[str, _Device] = {}
        for entry in wanted.split(","):
            device = self._resolve(entry.strip(), boards)
            if device is None:
                break
            if device.label in devices:
                return ()
            devices[device.label] = device
        return tuple(devices.values())

    def _resolve(self, entry: str, boards: Mapping[int, Any]) -> _Device | None:
        if entry.startswith("MIG-"):
            return self._resolve_mig(entry, boards)
        if entry.startswith("GPU-"):
            found = [index for index, board in boards.items() if self._uuid(board).startswith(entry)]
        else:
            found = [int(entry)] if entry.isdecimal() else []
        if len(found) != 1 or found[0] not in boards:
            return None
        board = boards[found[0]]
        return _Device(str(found[0]), found[0], board, board)

    def _resolve_mig(self, uuid: str, boards: Mapping[int, Any]) -> _Device | None:
        handle = self._query("nvmlDeviceGetHandleByUUID", uuid)
        if handle is None:
            return None
        board = self._query("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle)
        index = None if board is None else self._query("nvmlDeviceGetIndex", board)
        if index is None:
            return None
        return _Device(f"{index}:{self._query('nvmlDeviceGetIndex', handle)}", index, handle, board)

    def _uuid(self, board: Any) -> str:
        return str(self._query("nvmlDeviceGetUUID", board) or "")

    def _query(self, name: str, *arguments: Any) -> Any:
        """NVML's answer; None where this device, driver or library does not have it."""
        function = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            return function(*arguments)
        except self._nvml.NVMLError as error:
            if error.value in _OUTAGE:
                raise
            return None

    def _sample(self, device: _Device) -> GpuSample:
        board = device.board
        memory = self._query("nvmlDeviceGetMemoryInfo", device.handle)
        rates = self._query("nvmlDeviceGetUtilizationRates", board)
        sample = GpuSample(
            device=device.label,
            memory_used_bytes=None if memory is None else int(memory.used),
            memory_total_bytes=None if memory is None else int(memory.total),
            utilization_ratio=None if rates is None else rates.gpu / 100,
            temperature_celsius=_scaled(self._query("nvmlDeviceGetTemperature", board, _CORE_SENSOR), 1.0),
            power_watts=_scaled(self._query("nvmlDeviceGetPowerUsage", board), 1e-3),
            sm_clock_hertz=_scaled(self._query("nvmlDeviceGetClockInfo", board, _SM_CLOCK), 1e6),
            memory_clock_hertz=_scaled(self._query("nvmlDeviceGetClockInfo", board, _MEMORY_CLOCK), 1e6),
            throttle=self._throttle(board),
            ecc_uncorrected=self._query("nvmlDeviceGetTotalEccErrors", board, _UNCORRECTED, _VOLATILE),
        )
        if sample == GpuSample(device.label):
            raise RuntimeError(f"NVML answers nothing about device {device.label}")
        return sample._replace(xid_errors=self._xids.get(device.number))

    def _throttle(self, board: Any) -> Mapping[str, bool]:
        bits = self._query("nvmlDeviceGetCurrentClocksEventReasons", board)
        if bits is None:  # drivers before R535 know only the older name
            bits = self._query("nvmlDeviceGetCurrentClocksThrottleReasons", board)
        if bits is None:
            return {}
        return {reason: bool(bits & bit) for reason, bit in THROTTLE_REASONS.items()}

    def _watch_xids(self) -> None:
        """Have the driver queue XID errors for us. Counts go on over a re-initialisation."""
        self._events = self._query("nvmlEventSetCreate")
        if self._events is None:
            return
        for device in self._devices or ():
            try:
                self._nvml.nvmlDeviceRegisterEvents(device.board, _XID_EVENT, self._events)
            except self._nvml.NVMLError:
                continue  # a vGPU, WSL: the device has no count
            self._xids.setdefault(device.number, 0)
            self._numbers[_address(device.board)] = device.number

    def _count_xids(self) -> None:
        if self._events is None:
            return
        for _ in range(_MAX_EVENTS):
            event = self._query("nvmlEventSetWait", self._events, 0)
            if event is None:  # a timeout: nothing is queued
                return
            index = self._numbers.get(_address(event.device))
            if index is None:
                index = self._query("nvmlDeviceGetIndex", event.device)
            if index in self._xids and event.eventType & _XID_EVENT:
                self._xids[index] += 1


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _address(handle: Any) -> int:
    """Identity of a device handle: pynvml makes a new ctypes object of the same pointer at every call.

    A GPU that fell off the bus no longer tells its index, and that is when the XID matters.
    """
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
