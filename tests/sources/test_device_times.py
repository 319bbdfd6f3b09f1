"""Phases on a device that runs behind. The device is a stand-in (``tests/fake_device.py``): no test machine has a GPU."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_device import Device
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.records import DeviceTimes, PhaseInterval
from rlhf_otel.sources.device_times import MAX_MARKED, MAX_WAITING, CudaClock, DevicePhaseRecorder, clock_of
from rlhf_otel.sources.phases import PhaseRecorder, nest


class Training:
    """A training thread with a device."""

    def __init__(self) -> None:
        self.device = Device()
        self.recorder = DevicePhaseRecorder(CudaClock(self.device))

    def phase(self, name: str, seconds: float) -> None:
        opened = self.recorder.begin(name)
        self.device.work(seconds)
        self.recorder.end(opened)

    def end_step(self) -> tuple[list[PhaseInterval], DeviceTimes]:
        number = self.recorder.end_step()
        times = self.recorder.take_device(number)
        assert times is not None
        return nest(self.recorder.take_step(number)), times


def by_name(phases: list[PhaseInterval], times: DeviceTimes) -> dict[str, float]:
    return {phase.phase: round(times.seconds[phase[:3]], 9) for phase in phases if phase[:3] in times.seconds}


def test_times_are_the_device_s_and_known_when_it_is_through() -> None:
    training = Training()
    training.phase("loss", 0.25)
    training.phase("backward", 0.5)
    phases, times = training.end_step()
    assert not times.known, "nothing has run yet"
    training.device.run(0.5)
    training.recorder.read_device()
    assert not times.known, "the backward pass still runs"
    training.device.run()
    training.end_step()
    assert times.known
    assert by_name(phases, times) == {"loss": 0.25, "backward": 0.5}
    assert training.recorder.device_seconds == {"loss": 0.25, "backward": 0.5, "optimizer": 0.0}


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=12), st.randoms(use_true_random=False))
def test_whenever_it_is_looked_each_step_gets_its_own_times(steps: list[list[int]], chance: Any) -> None:
    training = Training()
    expected, found = [], []
    for step in steps:
        for tenths in step:
            training.phase("backward", tenths / 10)
            training.device.run(chance.choice([0.0, 0.1, 5.0]))
        expected.append([tenths / 10 for tenths in step])
        found.append(training.end_step())
        if sum(not times.known for _, times in found) >= MAX_WAITING:
            training.device.run()
    training.device.run()
    training.recorder.read_device()
    for (phases, times), durations in zip(found, expected, strict=True):
        assert times.known
        assert [round(times.seconds[phase[:3]], 6) for phase in phases] == durations


def test_phases_inside_phases_and_those_that_an_exception_leaves() -> None:
    training = Training()
    loss = training.recorder.begin("loss")
    training.phase("forward", 1.0)
    training.recorder.begin("policy_logprobs")
    training.device.work(2.0)
    training.recorder.end(loss, failed=True)
    training.device.run()
    phases, times = training.end_step()
    assert by_name(phases, times) == {"loss": 3.0, "forward": 1.0}
    assert training.recorder._begun == {}


def test_a_phase_that_is_open_over_the_end_of_a_step_keeps_its_mark() -> None:
    training = Training()
    update = training.recorder.begin("update")
    training.device.work(1.0)
    training.end_step()
    training.device.work(1.0)
    training.recorder.end(update)
    training.device.run()
    assert by_name(*training.end_step()) == {"update": 2.0}


def test_phases_of_other_threads_are_not_marked() -> None:
    training = Training()
    training.recorder._thread = -1
    training.phase("reward_function", 1.0)
    assert training.device.events == 0


def test_events_are_used_again() -> None:
    training = Training()
    for _ in range(50):
        training.phase("backward", 0.1)
        training.device.run()
        training.end_step()
    assert training.device.events == 2


def test_marks_are_bounded_in_a_step_with_many_phases() -> None:
    training = Training()
    for _ in range(10 * MAX_MARKED):
        training.phase("reward_function", 0.001)
    training.device.run()
    phases, times = training.end_step()
    assert training.device.events == 2 * MAX_MARKED
    assert len(times.seconds) == MAX_MARKED < len(phases)


def test_a_device_that_hangs_is_not_waited_for() -> None:
    training = Training()
    steps = []
    for _ in range(10 * MAX_WAITING):
        training.phase("backward", 1.0)
        steps.append(training.end_step())
    assert len(training.recorder._waiting) <= MAX_WAITING
    assert steps[0][1].known
    assert steps[0][1].seconds == {}, "given up, and not made up"


def test_a_clock_that_fails_is_one_fault_and_costs_no_phase(caplog: pytest.LogCaptureFixture) -> None:
    training = Training()
    training.phase("loss", 1.0)
    training.device.broken = True
    with caplog.at_level(logging.WARNING):
        training.phase("backward", 1.0)
        training.phase("optimizer", 1.0)
        phases, times = training.end_step()
    assert [phase.phase for phase in phases] == ["loss", "backward", "optimizer"]
    assert times.known
    assert faults.counts()["phases"] == 1
    faults.reset()


@pytest.mark.parametrize("kind", ["cpu", "mps", "meta"])
def test_without_a_gpu_there_is_no_clock_and_the_recorder_is_the_plain_one(kind: str) -> None:
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device(kind)))
    assert clock_of(trainer) is None
    assert clock_of(None) is None
    assert PhaseRecorder().device_seconds == {}
    gpu = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cuda", 1)))
    clock = clock_of(gpu)
    assert isinstance(clock, CudaClock)
    assert clock._cuda is torch.cuda
