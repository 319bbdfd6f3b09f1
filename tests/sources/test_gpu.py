"""The GPU source against a fake that raises pynvml's own errors and hands out pointers as pynvml does."""

from __future__ import annotations

import ctypes
import inspect
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from rlhf_otel import faults
from rlhf_otel.sources.gpu import RETRY_SECONDS, THROTTLE_REASONS, GpuReader, GpuSample

GIB = 2**30
MIG = "MIG-5a3c7f1e-0000-5000-8000-000000000001"


class FakeBoard:
    """What one GPU answers. A value that is an NVMLError code is raised."""

    def __init__(self, number: int) -> None:
        self.uuid = f"GPU-{number}932f937-d72c-4106-c12f-20bd9faed9f{number}"
        self.memory: Any = SimpleNamespace(used=6 * GIB, total=80 * GIB, free=74 * GIB)
        self.rates: Any = SimpleNamespace(gpu=37, memory=12)
        self.temperature: Any = 61
        self.power: Any = 312_500
        self.clocks: Any = {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}
        self.reasons: Any = 0
        self.ecc: Any = 0
        self.registers_events = True
        self.lost = False


class FakeNvml:
    """NVML on a machine with the given boards; board 1 may carry one MIG device."""

    NVMLError = pynvml.NVMLError

    def __init__(self, count: int = 2) -> None:
        self.boards = [FakeBoard(number) for number in range(count)]
        self.mig: dict[str, tuple[int, Any]] = {}
        self.queue: list[Any] = []
        self.init_error: int | None = None
        self.inits = 0
        self.open = 0
        self.event_sets = 0

    @staticmethod
    def fail(code: int) -> None:
        raise pynvml.NVMLError(code)

    def pointer(self, number: int) -> Any:
        return ctypes.cast(0x1000 + number, ctypes.POINTER(ctypes.c_int))

    def board(self, handle: Any) -> FakeBoard:
        if not self.open:
            self.fail(pynvml.NVML_ERROR_UNINITIALIZED)
        number = ctypes.cast(handle, ctypes.c_void_p).value - 0x1000
        if number >= 100:
            self.fail(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        if self.boards[number].lost:
            self.fail(pynvml.NVML_ERROR_GPU_IS_LOST)
        return self.boards[number]

    def answer(self, value: Any) -> Any:
        if isinstance(value, pynvml.NVMLError):
            raise value
        return value

    def nvmlInit(self) -> None:
        self.inits += 1
        if self.init_error is not None:
            self.fail(self.init_error)
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:
        handle = self.pointer(index)
        self.board(handle)
        return handle

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:
        if uuid not in self.mig:
            self.fail(pynvml.NVML_ERROR_NOT_FOUND)
        return self.pointer(100)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> Any:
        return self.pointer(next(number for number, _ in self.mig.values()))

    def nvmlDeviceGetIndex(self, handle: Any) -> int:
        number = ctypes.cast(handle, ctypes.c_void_p).value - 0x1000
        if number < 100:
            self.board(handle)
        return number % 100

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return self.board(handle).uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        if ctypes.cast(handle, ctypes.c_void_p).value == 0x1000 + 100:
            return next(memory for _, memory in self.mig.values())
        return self.answer(self.board(handle).memory)

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return self.answer(self.board(handle).rates)

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> Any:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        return self.answer(self.board(handle).temperature)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> Any:
        return self.answer(self.board(handle).power)

    def nvmlDeviceGetClockInfo(self, handle: Any, clock: int) -> Any:
        return self.answer(self.board(handle).clocks[clock])

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> Any:
        return self.answer(self.board(handle).reasons)

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> Any:
        assert kind == pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
        assert counter == pynvml.NVML_VOLATILE_ECC
        return self.answer(self.board(handle).ecc)

    def nvmlEventSetCreate(self) -> Any:
        self.event_sets += 1
        return object()

    def nvmlEventSetFree(self, events: Any) -> None:
        self.event_sets -= 1

    def nvmlDeviceRegisterEvents(self, handle: Any, types: int, events: Any) -> None:
        assert types == pynvml.nvmlEventTypeXidCriticalError
        if not self.board(handle).registers_events:
            self.fail(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlEventSetWait(self, events: Any, timeout_ms: int) -> Any:
        assert timeout_ms == 0
        if not self.queue:
            self.fail(pynvml.NVML_ERROR_TIMEOUT)
        return self.queue.pop(0)

    def xid(self, number: int, code: int = 79) -> None:
        self.queue.append(
            SimpleNamespace(
                device=self.pointer(number),
                eventType=pynvml.nvmlEventTypeXidCriticalError,
                eventData=code,
            )
        )


UNSUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _all_devices_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def labels(nvml: FakeNvml) -> list[str]:
    return [sample.device for sample in GpuReader(nvml).read()]


def test_the_fake_has_the_signatures_of_pynvml() -> None:
    for name, function in vars(FakeNvml).items():
        if name.startswith("nvml"):
            real = inspect.signature(getattr(pynvml, name)).parameters
            assert len(real) >= len(inspect.signature(function).parameters) - 1, name


def test_values_come_in_base_units() -> None:
    nvml = FakeNvml(1)
    nvml.boards[0].ecc = 3
    (sample,) = GpuReader(nvml).read()
    assert sample == GpuSample(
        device="0",
        memory_used_bytes=6 * GIB,
        memory_total_bytes=80 * GIB,
        utilization_ratio=0.37,
        temperature_celsius=61.0,
        power_watts=312.5,
        sm_clock_hertz=1.98e9,
        memory_clock_hertz=2.619e9,
        throttle=dict.fromkeys(THROTTLE_REASONS, False),
        ecc_uncorrected=3,
        xid_errors=0,
    )


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (pynvml.nvmlClocksEventReasonSwPowerCap, {"power_cap"}),
        (
            pynvml.nvmlClocksEventReasonHwSlowdown | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
            {"hw_slowdown", "hw_thermal"},
        ),
        (pynvml.nvmlClocksEventReasonSyncBoost, {"sync_boost"}),
        (pynvml.nvmlClocksEventReasonSwThermalSlowdown, {"sw_thermal"}),
        (pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown, {"hw_power_brake"}),
        (pynvml.nvmlClocksEventReasonGpuIdle | pynvml.nvmlClocksEventReasonApplicationsClocksSetting, set()),
    ],
)
def test_throttle_reasons(bits: int, reasons: set[str]) -> None:
    nvml = FakeNvml(1)
    nvml.boards[0].reasons = bits
    (sample,) = GpuReader(nvml).read()
    assert {reason for reason, on in sample.throttle.items() if on} == reasons
    assert set(sample.throttle) == set(THROTTLE_REASONS)


def test_the_older_name_of_throttle_reasons_serves_older_drivers() -> None:
    nvml = FakeNvml(1)
    nvml.boards[0].reasons = pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x04  # type: ignore[attr-defined]
    (sample,) = GpuReader(nvml).read()
    assert sample.throttle["power_cap"] is True


@pytest.mark.parametrize(
    ("attribute", "fields"),
    [
        ("memory", {"memory_used_bytes", "memory_total_bytes"}),
        ("rates", {"utilization_ratio"}),
        ("temperature", {"temperature_celsius"}),
        ("power", {"power_watts"}),
        ("ecc", {"ecc_uncorrected"}),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_an_unsupported_value_is_none_and_the_others_stay(
    attribute: str, fields: set[str], code: int
) -> None:
    nvml = FakeNvml(1)
    setattr(nvml.boards[0], attribute, pynvml.NVMLError(code))
    (sample,) = GpuReader(nvml).read()
    assert {name for name, value in sample._asdict().items() if value is None} == fields
    assert faults.total() == 0


def test_unsupported_throttling_and_xid_are_absent() -> None:
    nvml = FakeNvml(1)
    nvml.boards[0].reasons = UNSUPPORTED
    nvml.boards[0].registers_events = False
    (sample,) = GpuReader(nvml).read()
    assert sample.throttle == {}
    assert sample.xid_errors is None


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1", "2", "3"]),
        ("2", ["2"]),
        ("3,1", ["3", "1"]),
        (" 1 , 0 ", ["1", "0"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0,2,-1,1", ["0", "2"]),
        ("1,9,2", ["1"]),
        ("1,1", []),
        ("GPU-2932f937-d72c-4106-c12f-20bd9faed9f2,GPU-0932", ["2", "0"]),
        ("GPU-", []),
        ("GPU-ffff", []),
        ("MIG-00000000-0000-0000-0000-000000000000", []),
        ("MIG-GPU-2932f937-d72c-4106-c12f-20bd9faed9f2/1/0", []),
    ],
)
def test_only_what_cuda_shows_to_this_process(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert labels(FakeNvml(4)) == expected
    assert faults.total() == 0


def test_a_mig_device_has_its_own_memory_and_its_boards_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(2)
    nvml.mig[MIG] = (1, SimpleNamespace(used=2 * GIB, total=10 * GIB))
    nvml.boards[1].temperature = 70
    nvml.boards[1].rates = UNSUPPORTED
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", MIG)
    (sample,) = GpuReader(nvml).read()
    assert (sample.device, sample.memory_total_bytes, sample.temperature_celsius) == ("1:0", 10 * GIB, 70.0)
    assert sample.utilization_ratio is None


def test_a_board_that_nvml_refuses_is_left_out() -> None:
    nvml = FakeNvml(3)
    nvml.boards[1].lost = True
    assert labels(nvml) == ["0", "2"]


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_gpu_is_no_fault_and_is_remembered(code: int, caplog: pytest.LogCaptureFixture) -> None:
    nvml, clock = FakeNvml(), Clock()
    nvml.init_error = code
    reader = GpuReader(nvml, clock)
    for _ in range(3):
        assert reader.read() == ()
        clock.now += 10 * RETRY_SECONDS
    assert nvml.inits == 1
    assert faults.total() == 0
    assert caplog.records == []


def test_the_real_library_without_a_driver_reads_as_no_gpu() -> None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert GpuReader().read() == ()
        assert faults.total() == 0
    else:
        pynvml.nvmlShutdown()
        assert all(sample.memory_total_bytes for sample in GpuReader().read())


def test_a_lost_gpu_is_one_fault_and_no_samples_until_it_is_back() -> None:
    nvml, clock = FakeNvml(), Clock()
    reader = GpuReader(nvml, clock)
    assert len(reader.read()) == 2
    for board in nvml.boards:
        board.lost = True
    for _ in range(30):
        clock.now += 5
        assert reader.read() == ()
    assert faults.counts()["system"] == 1
    assert nvml.inits == 1 + 2  # 150 s of outage: at most one attempt a minute
    for board in nvml.boards:
        board.lost = False
    clock.now += RETRY_SECONDS
    assert len(reader.read()) == 2
    assert faults.counts()["system"] == 1


def test_an_outage_after_a_recovery_is_another_fault() -> None:
    nvml, clock = FakeNvml(), Clock()
    reader = GpuReader(nvml, clock)
    for lost in (False, True, False, True):
        clock.now += RETRY_SECONDS
        nvml.boards[0].lost = nvml.boards[1].lost = lost
        assert bool(reader.read()) is not lost
    assert faults.counts()["system"] == 2


def test_a_driver_that_is_unloaded_later_is_an_outage_not_an_absence() -> None:
    nvml, clock = FakeNvml(), Clock()
    reader = GpuReader(nvml, clock)
    reader.read()
    nvml.boards[0].memory = pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    nvml.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    assert reader.read() == ()
    clock.now += RETRY_SECONDS
    assert reader.read() == ()
    nvml.init_error, nvml.boards[0].memory = None, SimpleNamespace(used=GIB, total=80 * GIB)
    clock.now += RETRY_SECONDS
    assert len(reader.read()) == 2


def test_a_device_that_answers_nothing_is_an_outage() -> None:
    nvml = FakeNvml(1)
    board = nvml.boards[0]
    unknown = pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
    board.memory = board.rates = board.temperature = board.power = board.reasons = board.ecc = unknown
    board.clocks = dict.fromkeys((pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM), unknown)
    assert GpuReader(nvml).read() == ()
    assert faults.counts()["system"] == 1


def test_xid_errors_are_counted_per_device_and_go_on_over_an_outage() -> None:
    nvml, clock = FakeNvml(), Clock()
    reader = GpuReader(nvml, clock)
    assert [sample.xid_errors for sample in reader.read()] == [0, 0]
    nvml.xid(1)
    nvml.xid(1, 48)
    nvml.xid(0, 31)
    assert [sample.xid_errors for sample in reader.read()] == [1, 2]
    nvml.xid(1)
    nvml.boards[1].lost = True  # it no longer tells its index
    assert reader.read() == ()
    nvml.boards[1].lost = False
    clock.now += RETRY_SECONDS
    assert [sample.xid_errors for sample in reader.read()] == [1, 3]


def test_a_flood_of_xids_does_not_hold_the_reader() -> None:
    nvml = FakeNvml(1)
    reader = GpuReader(nvml)
    reader.read()
    for _ in range(10_000):
        nvml.xid(0)
    assert 0 < (reader.read()[0].xid_errors or 0) < 10_000


def test_close_gives_nvml_back_and_a_later_read_opens_it_again() -> None:
    nvml = FakeNvml()
    reader = GpuReader(nvml)
    reader.read()
    assert (nvml.open, nvml.event_sets) == (1, 1)
    reader.close()
    reader.close()
    assert (nvml.open, nvml.event_sets) == (0, 0)
    assert len(reader.read()) == 2
