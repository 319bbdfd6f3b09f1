"""The ledger sums to the wall time, whatever phases do: compared with a model that looks at the clock's every tick."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.spans import ABSORBING
from rlhf_otel.records import OpenPhase
from rlhf_otel.sources import ledger as ledger_module
from rlhf_otel.sources import phases as phases_module
from rlhf_otel.sources.ledger import Ledger
from rlhf_otel.sources.phases import PhaseRecorder

NAMES = ["rollout", "generate", "reward_function", "loss", "evaluation", "checkpoint", "other"]
TRAINING, ANOTHER = 1, 2


class World:
    """A clock and a current thread that stand still until told otherwise."""

    now = 0
    thread = TRAINING


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> type[World]:
    World.now, World.thread = 0, TRAINING
    for module in (phases_module, ledger_module):
        monkeypatch.setattr(module, "perf_counter_ns", lambda: World.now)
    monkeypatch.setattr(phases_module, "get_ident", lambda: World.thread)
    return World


class Model:
    """The same events, and for each tick of the clock the one phase that pays for it."""

    def __init__(self) -> None:
        self.world = World()
        World.now, World.thread = 0, TRAINING
        self.recorder = PhaseRecorder()
        self.ledger = Ledger(self.recorder)
        self.open: list[Any] = []
        self.elsewhere: list[Any] = []
        self.paid: dict[str, int] = defaultdict(int)
        self.ended = False

    def tick(self, duration: int, telemetry: bool = False) -> None:
        World.now += duration
        if self.ended:
            return
        stack = [opened[0] for opened in self.open]
        whole = next((name for name in stack if name in ABSORBING), None)
        pays = "telemetry" if telemetry else whole or (stack[-1] if stack else "other")
        self.paid[pays] += duration

    def event(self, kind: str, name: str, duration: int, chance: random.Random) -> None:
        if kind == "begin":
            self.open.append(self.recorder.begin(name))
        elif kind in ("end", "raise") and self.open:
            position = chance.randrange(len(self.open))
            self.recorder.end(self.open[position], kind == "raise")
            del self.open[position:]
        elif kind == "begin elsewhere":
            World.thread = ANOTHER
            self.elsewhere.append(self.recorder.begin(name, "f"))
        elif kind == "end elsewhere" and self.elsewhere:
            World.thread = ANOTHER
            self.recorder.end(self.elsewhere.pop(chance.randrange(len(self.elsewhere))))
        elif kind == "telemetry":
            entered = World.now
            self.tick(duration, telemetry=True)
            self.recorder.add("telemetry", entered, World.now)
        elif kind == "step":
            self.recorder.end_step()
        elif kind == "take":
            self.recorder.take_step(self.recorder.end_step())
        elif kind == "end of the run" and not self.ended:
            self.ledger.end()
            self.ended = True
        World.thread = TRAINING

    def check(self) -> None:
        """To the nanosecond."""
        seconds = self.ledger.totals().seconds
        told = {
            name: round(spent * 1e9) for name, spent in seconds.items()
        }  # differences leave a rest of 1e-17
        assert {name: spent for name, spent in told.items() if spent} == {
            name: spent for name, spent in self.paid.items() if spent
        }


events = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin"] * 4
            + ["end"] * 3
            + ["raise", "telemetry", "step", "take", "scrape", "begin elsewhere", "end elsewhere"]
            + ["end of the run"]
        ),
        st.sampled_from(NAMES),
        st.integers(0, 10**6),
    ),
    max_size=80,
)


@pytest.mark.usefixtures("world")
@given(events, st.randoms(use_true_random=False))
def test_every_tick_belongs_to_exactly_one_phase(
    happened: list[tuple[str, str, int]], chance: random.Random
) -> None:
    """Phases that nest, are left out of order, raise, never end, or run on another thread; scrapes in between."""
    model = Model()
    for kind, name, duration in happened:
        model.event(kind, name, duration, chance)
        model.tick(chance.randrange(1000))
        if kind == "scrape":
            model.check()
    model.check()


@pytest.mark.usefixtures("world")
def test_the_end_of_the_run_ends_what_is_open() -> None:
    model = Model()
    outer = model.recorder.begin("rollout")
    model.open.append(outer)
    model.tick(1000)
    model.event("end of the run", "", 0, random.Random(0))
    World.now += 10**9
    model.recorder.end(outer)
    model.recorder.add("telemetry", World.now - 5, World.now)
    model.check()
    assert model.paid == {"rollout": 1000}


@pytest.mark.parametrize(
    ("stack", "told", "since"),
    [
        ([], "other", 0),
        (["rollout"], "rollout", 0),
        (["rollout", "generate"], "generate", 1),
        (["rollout", "reward", "reward_function"], "reward", 1),
        (["reward_function"], "reward", 0),
        (["rollout", "other"], "rollout", 0),
        (["other"], "other", 0),
        (["evaluation", "rollout", "generate"], "evaluation", 0),
        (["evaluation", "checkpoint"], "evaluation", 0),
    ],
    ids=lambda value: "-".join(value) or "nothing" if isinstance(value, list) else None,
)
def test_where_the_training_thread_is(world: type[World], stack: list[str], told: str, since: int) -> None:
    model = Model()
    for name in stack:
        model.recorder.begin(name)
        World.now += 10**9
    World.now += 10**9
    assert model.ledger.open_phase() == OpenPhase(told, len(stack) + 1 - since)
    World.thread = ANOTHER
    model.recorder.begin("reward_function", "asynchronous")
    found = model.ledger.open_phase()
    assert found is not None
    assert found.phase == told, "what other threads do is not where training is"
    model.ledger.end()
    assert model.ledger.open_phase() is None


def test_between_phases_time_counts_from_the_end_of_the_last_one(world: type[World]) -> None:
    model = Model()
    World.now += 5 * 10**9
    assert model.ledger.open_phase() == OpenPhase("other", 5)
    opened = model.recorder.begin("loss")
    World.now += 10**9
    model.recorder.end(opened)
    World.now += 2 * 10**9
    assert model.ledger.open_phase() == OpenPhase("other", 2)
    World.now += 10**9
    model.recorder.add("telemetry", World.now - 1, World.now)
    assert model.ledger.open_phase() == OpenPhase("other", 0)


def test_a_jump_of_the_wall_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = PhaseRecorder()
    ledger = Ledger(recorder)
    began = time.perf_counter()
    opened = recorder.begin("generate")
    for jumped in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda jumped=jumped: jumped)
        monkeypatch.setattr(time, "time_ns", lambda jumped=jumped: int(jumped * 1e9))
        assert sum(ledger.totals().seconds.values()) <= time.perf_counter() - began
    recorder.end(opened)
    assert 0 < ledger.totals().seconds["generate"] <= time.perf_counter() - began


def test_a_fork_in_the_middle_of_phases_and_scrapes() -> None:
    """The child, a loader's worker, ends the phases that it was born in and begins its own; the parent sees nothing
    of that, and neither hangs."""
    recorder = PhaseRecorder()
    ledger = Ledger(recorder)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            ledger.totals()

    scraper = threading.Thread(target=look)
    scraper.start()
    try:
        for _ in range(20):
            opened = recorder.begin("data")
            child = os.fork()
            if child == 0:
                signal.alarm(60)
                recorder.end(recorder.begin("generate"))
                recorder.end(opened)
                for _ in range(
                    20_000
                ):  # more than are kept: it does not wait for a scrape that died with its thread
                    recorder.end(recorder.begin("loss"))
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            recorder.end(opened)
    finally:
        stop.set()
        scraper.join()
    ledger.end()
    totals = ledger.totals()
    assert {name: count for name, count in totals.counts.items() if count} == {"data": 20}
    assert set(totals.seconds) > {"data"}
    assert totals.seconds["generate"] == totals.seconds["loss"] == 0.0
