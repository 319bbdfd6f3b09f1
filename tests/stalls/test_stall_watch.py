"""The watch: the interpreter is held, threads hang, processes fork; and whoever goes on is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter_ns

import pytest
from otlp_receiver import wait_until

from rlhf_otel import faults
from rlhf_otel.exporters.stacks import StackFile
from rlhf_otel.records import OpenPhase
from rlhf_otel.stalls import timer
from rlhf_otel.stalls.watch import Sight, Stall, StallWatch

WITHIN_S = 60.0
ENOUGH_LOOKS = 5


class World:
    """A step in progress that is whatever the test says, and who looked at it."""

    def __init__(self) -> None:
        self.step = 1
        self.began_ns = perf_counter_ns()
        self.limit_s = 1e6
        self.over = False
        self.looks = 0
        self.told: list[Stall] = []

    def see(self) -> Sight | None:
        self.looks += 1
        if self.over:
            return None
        phases = {"reward_function": (perf_counter_ns() - self.began_ns) * 1e-9}
        return Sight(self.step, self.began_ns, self.limit_s, OpenPhase("reward", 0.5), phases)

    def next_step(self) -> None:
        self.limit_s = 1e6
        self.step, self.began_ns = self.step + 1, perf_counter_ns()

    def looked(self) -> None:
        """Wait until the watch has looked a few times more."""
        enough = self.looks + ENOUGH_LOOKS
        wait_until(lambda: self.looks > enough, WITHIN_S)


@pytest.fixture
def world() -> World:
    return World()


Start = Callable[..., StallWatch]


@pytest.fixture
def start(world: World, tmp_path: Path) -> Iterator[Start]:
    """Starts watches that are stopped after the test."""
    started: list[StallWatch] = []

    def started_with(stacks: bool = True) -> StallWatch:
        opened = (lambda _: StackFile(tmp_path / "stacks.txt", "head\n")) if stacks else None
        watch = StallWatch(world.see, world.told.append, 0.1, opened)
        started.append(watch)
        watch.start()
        return watch

    yield started_with
    for watch in started:
        watch.close()
    assert not timer._armed
    assert not [thread for thread in threading.enumerate() if thread.name == "rlhf_otel-stalls"]


def test_a_step_within_its_limit_is_left_alone(world: World, start: Start, tmp_path: Path) -> None:
    watch = start()
    world.looked()
    assert timer._armed
    watch.close()
    assert world.told == []
    assert watch.latest == ""
    assert not (tmp_path / "stacks.txt").exists()


def test_a_stall_is_told_once_with_its_stacks(world: World, start: Start, tmp_path: Path) -> None:
    watch = start()
    world.looked()
    world.limit_s = 0.0
    wait_until(lambda: world.told != [], WITHIN_S)
    world.looked()
    (stall,) = world.told
    assert (stall.step, stall.phase, stall.phase_s, stall.gil_held) == (1, "reward", 0.5, False)
    assert stall.path == str(tmp_path / "stacks.txt")
    assert not timer._armed, "there are stacks already"
    text = (tmp_path / "stacks.txt").read_text()
    assert "step 1 has taken" in text
    assert "test_a_stall_is_told_once" in text
    assert watch.latest in text
    assert "Timeout" not in text
    world.next_step()
    wait_until(lambda: timer._armed, WITHIN_S)
    world.limit_s = 0.0
    wait_until(lambda: len(world.told) == 2, WITHIN_S)
    assert world.told[1].step == 2


def test_a_run_that_is_over_may_take_as_long_as_it_likes(world: World, start: Start) -> None:
    start()
    world.looked()
    world.over, world.limit_s = True, 0.0
    world.looked()
    assert world.told == []
    assert not timer._armed


def test_without_stacks_a_stall_is_told_all_the_same(world: World, start: Start, tmp_path: Path) -> None:
    watch = start(stacks=False)
    world.limit_s = 0.0
    wait_until(lambda: world.told != [], WITHIN_S)
    assert world.told[0].path == ""
    assert watch.latest == ""
    assert not timer._armed
    assert list(tmp_path.iterdir()) == []


def test_where_no_file_can_be_the_stacks_are_kept_in_mind(world: World, start: Start, tmp_path: Path) -> None:
    (tmp_path / "stacks.txt").mkdir()
    watch = start()
    world.limit_s = 0.0
    wait_until(lambda: world.told != [], WITHIN_S)
    assert world.told[0].path == ""
    assert "test_where_no_file_can_be" in watch.latest
    assert faults.counts()["background"] == 1


def test_a_look_that_fails_is_a_fault_and_not_the_end(world: World, start: Start) -> None:
    start()
    world.looked()
    world.limit_s = "none"  # type: ignore[assignment]
    wait_until(lambda: faults.counts()["background"] > 0, WITHIN_S)
    world.limit_s = 0.0
    wait_until(lambda: world.told != [], WITHIN_S)


# With processes of their own, since what is tested would stop this one

HELD = """
import ctypes, os, signal, sys, threading, time
from pathlib import Path
from time import perf_counter_ns
from rlhf_otel.exporters.stacks import StackFile
from rlhf_otel.records import OpenPhase
from rlhf_otel.stalls import timer
from rlhf_otel.stalls.watch import Sight, StallWatch

signal.alarm(120)
folder, limit_s = Path(sys.argv[1]), float(sys.argv[2])
began, told, ended = [perf_counter_ns()], [], []

def see():
    seconds = {"loss": 1.0, "reward_function": (perf_counter_ns() - began[0]) * 1e-9}
    return Sight(len(began), began[-1], limit_s, OpenPhase("other", 0.0), seconds)

def await_(condition):
    while not condition():
        time.sleep(0.01)

def native_code_that_never_lets_go():
    ctypes.PyDLL(None).read(gate, ctypes.create_string_buffer(1), 1)

watch = StallWatch(see, told.append, limit_s, lambda _: StackFile(folder / "stacks.txt", "head\\n"))
watch.start()
await_(lambda: timer._armed)
"""


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", HELD + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN_S * 2, check=False)


def test_stacks_are_written_while_the_interpreter_is_held(tmp_path: Path) -> None:
    """Native code that keeps the GIL until somebody has read its stack from the outside."""
    done = python(
        """
gate, open_it = os.pipe()
if os.fork() == 0:
    stacks = folder / "stacks.txt"
    await_(lambda: "native_code_that_never_lets_go" in stacks.read_text())
    (folder / "seen").write_text(stacks.read_text())
    os.write(open_it, b"x")
    os._exit(0)
await_(lambda: timer._armed)
native_code_that_never_lets_go()
began.append(perf_counter_ns())  # the step ends before the watch can look
await_(lambda: told)
print(told, len(watch.latest))
watch.close()
""",
        tmp_path,
        1.0,
    )
    assert done.returncode == 0, done.stderr
    seen = (tmp_path / "seen").read_text()
    assert "Timeout" in seen, "the timer wrote it"
    assert "These stacks" not in seen, "before anybody else could"
    assert "step=1, phase='reward'" in done.stdout, done.stdout
    assert "gil_held=True" in done.stdout
    assert done.stdout.count("Stall(") == 1
    assert "These stacks: " in (tmp_path / "stacks.txt").read_text()
    assert "step 1 has taken" in (tmp_path / "stacks.txt").read_text()


def test_short_steps_before_the_interpreter_is_held_are_not_blamed(tmp_path: Path) -> None:
    """The timer was set in a step that has ended since, before the watch could look again."""
    done = python(
        """
gate, open_it = os.pipe()
if os.fork() == 0:
    await_(lambda: "native_code_that_never_lets_go" in (folder / "stacks.txt").read_text())
    await_(lambda: perf_counter_ns() - began[0] > 3 * limit_s * 1e9)
    os.write(open_it, b"x")
    os._exit(0)
await_(lambda: timer._armed)
sys.setswitchinterval(60)  # the watch does not come in between
began.append(perf_counter_ns())
native_code_that_never_lets_go()
sys.setswitchinterval(0.005)
await_(lambda: told)
time.sleep(5 * watch._looks_s)  # in which it would be told again
watch.close()
print(told)
""",
        tmp_path,
        1.0,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Stall(") == 1, done.stdout
    assert "step=2, phase='reward'" in done.stdout
    assert "gil_held=True" in done.stdout
    assert "These stacks: " in (tmp_path / "stacks.txt").read_text()


def test_a_forked_child_ends_as_always_and_may_set_the_timer_itself(tmp_path: Path) -> None:
    """Else the child would wait for a thread of its parent's."""
    done = python(
        """
import faulthandler
statuses = []
for child_arms in (False, True):
    await_(lambda: timer._armed)
    if os.fork() == 0:
        signal.alarm(30)
        assert not timer._armed
        if child_arms:
            faulthandler.dump_traceback_later(600, file=sys.stderr)
        sys.exit(0)  # and not os._exit: the interpreter is taken down
    statuses.append(os.wait()[1])
await_(lambda: timer._armed)
print(statuses, told)
watch.close()
""",
        tmp_path,
        600.0,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 0] []\n"
    assert not (tmp_path / "stacks.txt").exists()
