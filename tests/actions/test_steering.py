"""Saving and stopping: at once when alone, at the same step on all ranks, and in a trainer that will not hear."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from anomalies import Control
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.actions.exchange import LIMIT_S
from rlhf_otel.actions.steering import LOOK_EVERY, Steering
from rlhf_otel.catalogue.actions import ActionKind
from rlhf_otel.errors import TrainingStopped
from rlhf_otel.sources.agreement import Agreement


class Store:
    """What c10d's store does, in this process."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def set(self, key: str, value: str) -> None:
        self.values[key] = value.encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        return self.values[key]


def test_alone_it_acts_at_the_next_step_end() -> None:
    steering, control = Steering(0, 1, None, "x"), Control()
    steering.at_step_end(1, control)
    assert control.flags == (False, False)
    steering.ask(ActionKind.SAVE, "KLJump at step 1")
    steering.at_step_end(2, control)
    assert control.flags == (True, False)
    assert steering.stopped_because == ""


def test_a_flag_that_somebody_else_set_stays() -> None:
    control = Control()
    control.should_training_stop = True
    Steering(0, 1, None, "x").at_step_end(1, control)
    assert control.should_training_stop


def test_a_trainer_that_ignores_the_flag_is_stopped_by_an_exception_at_its_next_step() -> None:
    steering, control = Steering(0, 1, None, "x"), Control()
    steering.ask(ActionKind.STOP, "NonFinite at step 3")
    steering.at_step_end(4, control)
    with pytest.raises(TrainingStopped, match="NonFinite at step 3"):
        steering.at_step_end(5, control)


def test_without_a_store_several_ranks_cannot_be_steered() -> None:
    assert not Steering(0, 2, None, "x").possible
    assert Steering(0, 2, Agreement(Store()), "x").possible
    assert Steering(0, 1, None, "x").possible


def test_a_store_that_fails_is_a_fault_of_ours_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Store):
        def check(self, keys: list[str]) -> bool:
            raise ConnectionError("store gone")

    control = Control()
    for step in range(3 * LOOK_EVERY):
        Steering(1, 2, Agreement(Broken()), "x").at_step_end(step, control)
    assert control.flags == (False, False)
    assert faults.counts()["actions"] == 3
    assert len(caplog.records) == 1


class Silent(Store):
    """Answers nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()
        self.asked = 0

    def check(self, keys: list[str]) -> bool:
        self.asked += 1
        self.answers.wait()
        return super().check(keys)

    def set(self, key: str, value: str) -> None:
        self.asked += 1
        self.answers.wait()
        super().set(key, value)


def test_a_store_that_does_not_answer_stops_nobody() -> None:
    assert LIMIT_S <= 2, "docs/actions.md says so"
    store, control = Silent(), Control()
    rank_1 = Steering(1, 2, Agreement(store), "x", limit_s=0.05)
    for step in range(4 * LOOK_EVERY):
        rank_1.at_step_end(step, control)  # returns
    assert store.asked == 1, "one question at a time"
    assert faults.counts()["actions"] == 4

    rank_0 = Steering(0, 2, Agreement(store), "x", limit_s=0.05)
    rank_0.ask(ActionKind.STOP, "NonFinite at step 3")
    for step in range(3 * LOOK_EVERY):
        rank_0.at_step_end(step, control)
    assert control.flags == (False, False), "what the others may not have heard is not done"
    store.answers.set()


def test_a_store_that_answers_again_is_asked_again() -> None:
    store, control = Silent(), Control()
    steering = Steering(1, 2, Agreement(store), "x", limit_s=0.05)
    steering.at_step_end(LOOK_EVERY, control)
    Store.set(store, "x/10", '{"save": "because"}')
    store.answers.set()

    deadline = time.monotonic() + 60
    while control.flags != (True, False):
        assert time.monotonic() < deadline
        steering.at_step_end(2 * LOOK_EVERY, control)


Moves = list[int]


@given(
    asked=st.lists(st.tuples(st.integers(1, 40), st.sampled_from(["save", "stop"])), max_size=4),
    moves=st.lists(st.integers(0, 2), min_size=0, max_size=150),
)
def test_all_ranks_do_the_same_at_the_same_step(asked: list[tuple[int, str]], moves: Moves) -> None:
    """Ranks move as reduced gradients let them: none ends step n + 1 before all have ended step n.

    ``moves`` is the order in which they do; rank 0 is asked at its own steps.
    """
    store = Store()
    ranks = [Steering(rank, 3, Agreement(store), "x") for rank in range(3)]
    done: list[dict[int, tuple[bool, bool]]] = [{}, {}, {}]
    step = [0, 0, 0]
    turns: Callable[[], list[int]] = lambda: [r for r in range(3) if step[r] == min(step)]  # noqa: E731
    order = iter(moves)
    while min(step) < 60:
        rank = turns()[next(order, 0) % len(turns())]
        if rank == 0:
            for _, kind in (entry for entry in asked if entry[0] == step[0]):
                ranks[0].ask(ActionKind(kind), "because")
        step[rank] += 1
        control = Control()
        try:
            ranks[rank].at_step_end(step[rank], control)
        except TrainingStopped:
            step = [60, 60, 60]
        if any(control.flags):
            done[rank][step[rank]] = (bool(control.should_save), bool(control.should_training_stop))
            if control.should_training_stop:
                step[rank] = 60
    assert done[0] == done[1] == done[2]
    if asked:
        assert done[0]
        assert min(done[0]) <= min(s for s, _ in asked) + 1 + LOOK_EVERY
