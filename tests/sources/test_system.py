"""The sampler and its signals, driven by a clock and readers of the test's own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.catalogue.rules import RULE_BY_NAME, Comparison
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.sources.gpu import GpuSample
from rlhf_otel.sources.host import HostSample
from rlhf_otel.sources.system import SystemSampler
from rlhf_otel.sources.torch_memory import TorchMemorySample

GIB = 2**30
HOST = HostSample(
    resident_bytes=10 * GIB,
    cpu_seconds=1.0,
    threads=4,
    open_fds=10,
    memory_available_bytes=40 * GIB,
    memory_total_bytes=100 * GIB,
    cpu_utilization_ratio=0.5,
)


def torch_sample(device: str = "0", retries: int = 0) -> TorchMemorySample:
    return TorchMemorySample(device, 1, 2, 2, 0.5, retries, 0)


class Machine:
    """A machine whose state the test sets. Every reader can be made to fail."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.gpus: tuple[GpuSample, ...] = ()
        self.torch: tuple[TorchMemorySample, ...] = ()
        self.host = HOST
        self.broken: set[str] = set()
        self.reads = 0
        self.closes = 0
        self.gate: threading.Event | None = None

    def read(self) -> tuple[GpuSample, ...]:
        self.reads += 1
        if self.gate is not None:
            self.gate.wait(10)
        self._check("gpu")
        return self.gpus

    def close(self) -> None:
        self.closes += 1

    def read_torch(self) -> tuple[TorchMemorySample, ...]:
        self._check("torch")
        return self.torch

    def _check(self, part: str) -> None:
        if part in self.broken:
            raise OSError(f"{part} is broken")

    def sampler(self, **arguments: float) -> SystemSampler:
        return SystemSampler(
            gpu=self, host=_Host(self), torch=self.read_torch, clock=lambda: self.now, **arguments
        )

    def run(self, sampler: SystemSampler, rss: Callable[[float], float], seconds: float) -> set[str]:
        """Sample every 5 s of the machine's time; the names of all signals that were ever there."""
        begin, seen = self.now, set()
        while self.now < begin + seconds:
            resident = int(rss(self.now - begin))
            available = 100 * GIB - 50 * GIB - resident
            self.host = HOST._replace(resident_bytes=resident, memory_available_bytes=available)
            sampler.sample_once()
            seen |= sampler.signals().keys()
            self.now += 5.0
        return seen


class _Host:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def read(self) -> HostSample:
        self.machine._check("host")
        return self.machine.host


@pytest.fixture
def machine() -> Machine:
    return Machine()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.001)


# --- samples


def test_a_sample_holds_everything_that_was_read(machine: Machine) -> None:
    machine.gpus, machine.torch = (GpuSample("0"),), (torch_sample(),)
    before = time.time_ns()
    sampler = machine.sampler()
    assert sampler.latest is None
    sample = sampler.sample_once()
    assert sampler.latest is sample
    assert before <= sample.time_ns <= time.time_ns()
    assert (sample.gpus, sample.torch, sample.host) == (machine.gpus, machine.torch, HOST)


@pytest.mark.parametrize("part", ["gpu", "torch", "host"])
def test_a_part_that_fails_is_left_out_counted_and_leaves_the_others(machine: Machine, part: str) -> None:
    machine.gpus, machine.torch = (GpuSample("0"),), (torch_sample(),)
    machine.broken.add(part)
    sample = machine.sampler().sample_once()
    present = {"gpu": bool(sample.gpus), "torch": bool(sample.torch), "host": sample.host is not None}
    assert {name for name, there in present.items() if not there} == {part}
    assert faults.counts()["system"] == 1


def test_torch_devices_carry_the_labels_of_nvml_also_while_nvml_fails(machine: Machine) -> None:
    machine.gpus = (GpuSample("3"), GpuSample("1"))
    machine.torch = (torch_sample("0"), torch_sample("1"))
    sampler = machine.sampler()
    assert [sample.device for sample in sampler.sample_once().torch] == ["3", "1"]
    machine.gpus = ()
    assert [sample.device for sample in sampler.sample_once().torch] == ["3", "1"]


def test_torch_devices_keep_torchs_ordinals_without_nvml(machine: Machine) -> None:
    machine.torch = (torch_sample("0"), torch_sample("1"))
    assert [sample.device for sample in machine.sampler().sample_once().torch] == ["0", "1"]


# --- signals


def test_signals_are_the_catalogues(machine: Machine) -> None:
    machine.gpus = (GpuSample("0", memory_used_bytes=1, memory_total_bytes=2),)
    machine.torch = (torch_sample(),)
    sampler = machine.sampler()
    seen = machine.run(sampler, lambda t: GIB * (10 + t / 100), 600)
    assert seen == {"gpu_memory_used", "allocation_retries", "host_memory_used", "host_memory_exhaustion"}
    assert seen <= SIGNAL_BY_NAME.keys()


def test_gpu_memory_used_is_that_of_the_fullest_device(machine: Machine) -> None:
    machine.gpus = (
        GpuSample("0", memory_used_bytes=20, memory_total_bytes=80),
        GpuSample("1", memory_used_bytes=76, memory_total_bytes=80),
        GpuSample("2", memory_used_bytes=None, memory_total_bytes=None),
    )
    sampler = machine.sampler()
    sampler.sample_once()
    assert sampler.signals()["gpu_memory_used"] == pytest.approx(0.95)


def test_without_a_gpu_its_signals_are_absent(machine: Machine) -> None:
    sampler = machine.sampler()
    sampler.sample_once()
    assert sampler.signals() == {"host_memory_used": pytest.approx(0.6)}


def test_no_signals_before_the_first_sample(machine: Machine) -> None:
    assert machine.sampler().signals() == {}


def test_signals_of_a_sampler_that_hangs_become_unknown(machine: Machine) -> None:
    sampler = machine.sampler(interval_s=5.0)
    sampler.sample_once()
    machine.now += 30
    assert sampler.signals()
    machine.now += 60
    assert sampler.signals() == {}


def test_the_callers_copy_is_its_own(machine: Machine) -> None:
    sampler = machine.sampler()
    sampler.sample_once()
    sampler.signals().clear()
    assert sampler.signals()


class TestAllocationRetries:
    @staticmethod
    def retries(machine: Machine, sampler: SystemSampler, *counts: int) -> float:
        machine.torch = tuple(torch_sample(str(index), count) for index, count in enumerate(counts))
        sampler.sample_once()
        return sampler.signals()["allocation_retries"]

    def test_what_was_there_at_first_sight_is_not_recent(self, machine: Machine) -> None:
        assert self.retries(machine, machine.sampler(), 7) == 0

    def test_the_first_retries_of_a_process_that_had_not_begun_with_cuda_are(self, machine: Machine) -> None:
        sampler = machine.sampler()
        sampler.sample_once()
        assert self.retries(machine, sampler, 2) == 2

    def test_they_are_summed_over_devices(self, machine: Machine) -> None:
        sampler = machine.sampler()
        self.retries(machine, sampler, 1, 1)
        assert self.retries(machine, sampler, 2, 3) == 3

    def test_they_are_forgotten_after_15_minutes(self, machine: Machine) -> None:
        sampler = machine.sampler()
        self.retries(machine, sampler, 0)
        machine.now += 5
        assert self.retries(machine, sampler, 4) == 4
        for _ in range(170):
            machine.now += 5
            assert self.retries(machine, sampler, 4) == 4
        machine.now += 80
        assert self.retries(machine, sampler, 4) == 0

    def test_a_reset_of_torchs_counters_is_no_negative_increase(self, machine: Machine) -> None:
        sampler = machine.sampler()
        self.retries(machine, sampler, 0)
        assert self.retries(machine, sampler, 5) == 5
        assert self.retries(machine, sampler, 1) == 6


class TestHostMemoryExhaustion:
    def test_a_steady_leak_is_told_with_the_time_that_is_left(self, machine: Machine) -> None:
        sampler = machine.sampler()
        rate = 20 * 2**20  # 20 MiB/s: 40 GiB are used up after 2,048 s
        machine.run(sampler, lambda t: 10 * GIB + rate * t, 600)
        assert machine.host is not None
        left = machine.host.memory_available_bytes / rate
        assert sampler.signals()["host_memory_exhaustion"] == pytest.approx(left, rel=0.05)

    def test_it_fires_the_rule_in_time(self, machine: Machine) -> None:
        sampler = machine.sampler()
        machine.run(sampler, lambda t: 10 * GIB + 20 * 2**20 * t, 600)
        conditions = RULE_BY_NAME["HostMemoryGrowth"].conditions
        comparisons = [condition for condition in conditions if isinstance(condition, Comparison)]
        values = sampler.signals()
        for comparison in comparisons:
            value, threshold = values[comparison.signal], comparison.threshold
            assert value > threshold if comparison.op == ">" else value < threshold

    def test_noise_does_not_hide_it(self, machine: Machine) -> None:
        sampler, noise = machine.sampler(), random.Random(7)
        rate = 20 * 2**20
        machine.run(sampler, lambda t: 10 * GIB + rate * t + noise.uniform(0, GIB), 900)
        left = machine.host.memory_available_bytes / rate
        assert sampler.signals()["host_memory_exhaustion"] == pytest.approx(left, rel=0.2)

    def test_a_leak_once_a_step_of_three_minutes(self, machine: Machine) -> None:
        sampler = machine.sampler()
        machine.run(sampler, lambda t: 10 * GIB + 2 * GIB * (t // 180), 1500)
        left = machine.host.memory_available_bytes / (2 * GIB / 180)
        assert sampler.signals()["host_memory_exhaustion"] == pytest.approx(left, rel=0.5)

    def test_a_leak_that_begins_after_hours(self, machine: Machine) -> None:
        sampler = machine.sampler()
        leak = 20 * 2**20
        seen = machine.run(sampler, lambda t: 10 * GIB, 7200)
        assert "host_memory_exhaustion" not in seen
        machine.run(sampler, lambda t: 10 * GIB + leak * t, 900)
        assert "host_memory_exhaustion" in sampler.signals()

    def test_it_ends_with_the_growth(self, machine: Machine) -> None:
        sampler = machine.sampler()
        machine.run(sampler, lambda t: 10 * GIB + 20 * 2**20 * min(t, 600), 600 + 900)
        assert "host_memory_exhaustion" not in sampler.signals()

    @pytest.mark.parametrize(
        ("name", "rss"),
        [
            ("steady", lambda t: 10 * GIB),
            ("start-up", lambda t: GIB + 30 * GIB * min(1.0, t / 110)),
            ("growth below 5 percent", lambda t: 10 * GIB + 0.4 * GIB * min(1.0, t / 600)),
            (
                "a jump among spikes",
                lambda t: GIB * (10 + 5 * (t > 900) + 3 * (random.Random(t).random() < 0.4)),
            ),
            ("shrinking", lambda t: 40 * GIB - 30 * GIB * t / 3600),
            ("a spike of a minute", lambda t: 10 * GIB + 20 * GIB * (1800 < t < 1860)),
            ("a saw-tooth of a step beside the bucket", lambda t: 10 * GIB + 10 * GIB * (t % 29) / 29),
            ("a saw-tooth of two minutes", lambda t: 10 * GIB + 10 * GIB * (t % 120) / 120),
            ("evaluation every 20 minutes", lambda t: 10 * GIB + 15 * GIB * (t % 1200 < 200)),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_is_no_growth(self, machine: Machine, name: str, rss: Callable[[float], float]) -> None:
        assert "host_memory_exhaustion" not in machine.run(machine.sampler(), rss, 3600)

    @settings(max_examples=40, deadline=None)
    @given(at=st.floats(0, 1900), size=st.floats(0.1, 35), noise=st.floats(0, 0.02))
    def test_one_jump_is_never_growth(self, at: float, size: float, noise: float) -> None:
        machine, dice = Machine(), random.Random(int(at))

        def rss(t: float) -> float:
            return GIB * (10 + (size if t > at else 0.0) + dice.uniform(0, noise))

        assert "host_memory_exhaustion" not in machine.run(machine.sampler(), rss, 2000)

    def test_nothing_is_told_before_warm_up_and_observation(self, machine: Machine) -> None:
        sampler = machine.sampler(warmup_s=60.0, observation_s=180.0)
        assert "host_memory_exhaustion" not in machine.run(sampler, lambda t: GIB * (5 + t / 20), 235)
        assert "host_memory_exhaustion" in machine.run(sampler, lambda t: GIB * (5 + (235 + t) / 20), 60)


# --- the thread


def test_the_thread_samples_until_it_is_stopped(machine: Machine) -> None:
    sampler = machine.sampler(interval_s=0.001)
    sampler.start()
    sampler.start()
    until(lambda: machine.reads >= 3)
    sampler.stop()
    sampler.stop()
    reads = machine.reads
    assert [thread for thread in threading.enumerate() if thread.name == "rlhf-otel-system"] == []
    assert machine.closes == 1
    assert sampler.latest is not None
    assert machine.reads == reads


def test_it_can_be_started_again(machine: Machine) -> None:
    sampler = machine.sampler(interval_s=0.001)
    sampler.start()
    sampler.stop()
    reads = machine.reads
    sampler.start()
    until(lambda: machine.reads > reads)
    sampler.stop()


def test_stop_without_start_does_nothing(machine: Machine) -> None:
    machine.sampler().stop()
    assert machine.closes == 0


def test_faults_do_not_end_the_thread(machine: Machine) -> None:
    machine.broken |= {"gpu", "torch", "host"}
    sampler = machine.sampler(interval_s=0.001)
    sampler.start()
    until(lambda: machine.reads >= 3)
    machine.broken.clear()
    until(lambda: sampler.latest is not None and sampler.latest.host is not None)
    sampler.stop()
    assert faults.counts()["system"] >= 9


def test_a_driver_that_hangs_holds_neither_start_nor_stop(machine: Machine) -> None:
    machine.gate = threading.Event()
    sampler = machine.sampler()
    begin = time.monotonic()
    sampler.start()
    until(lambda: machine.reads == 1)
    sampler.stop(timeout_s=0.05)
    assert time.monotonic() - begin < 5
    machine.gate.set()
    until(lambda: machine.closes == 1)


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_an_impossible_interval_is_refused(interval: float) -> None:
    with pytest.raises(ConfigurationError, match="interval"):
        SystemSampler(interval)


def test_the_real_readers_work_here() -> None:
    sampler = SystemSampler(interval_s=0.01)
    sampler.start()
    until(lambda: sampler.latest is not None)
    sampler.stop()
    assert sampler.latest is not None
    assert sampler.latest.host is not None
    assert 0 < sampler.signals()["host_memory_used"] < 1
    assert faults.total() == 0
