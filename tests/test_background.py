"""The background thread: in order, bounded, undisturbed by faults, and gone when it should be."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from rlhf_otel import background as background_module
from rlhf_otel import faults
from rlhf_otel.background import Background

SOON_S = 60.0
"""Far longer than anything here takes."""


@pytest.fixture
def background() -> Iterator[Background]:
    found = Background()
    yield found
    found.stop(SOON_S)


class Gate:
    """A job that lasts until it is told to end."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        self.go_on.wait(SOON_S)


def test_jobs_run_in_their_order_on_another_thread(background: Background) -> None:
    ran: list[tuple[int, int]] = []
    background.start()
    for number in range(1000):
        assert background.submit(lambda n: ran.append((n, threading.get_ident())), number)
    assert background.flush(SOON_S)
    assert [number for number, _ in ran] == list(range(1000))
    assert {thread for _, thread in ran} != {threading.get_ident()}
    assert len({thread for _, thread in ran}) == 1


def test_jobs_wait_for_the_start(background: Background) -> None:
    ran: list[int] = []
    background.submit(ran.append, 1)
    assert background.queued == 1
    assert not background.flush(SOON_S), "nobody would run it"
    background.start()
    assert background.flush(SOON_S)
    assert ran == [1]
    assert background.queued == 0


def test_jobs_are_found_without_being_announced(background: Background) -> None:
    ran = threading.Event()
    background.start()
    background.submit(ran.set)
    assert ran.wait(SOON_S)


def test_a_full_queue_drops_and_counts() -> None:
    background = Background(limit=10)
    ran: list[int] = []
    answers = [background.submit(ran.append, number) for number in range(15)]
    assert answers == [True] * 10 + [False] * 5
    assert (background.queued, background.dropped) == (10, 5)
    background.start()
    assert background.stop(SOON_S)
    assert ran == list(range(10)), "the oldest are kept, in order"


def test_there_is_room_again_once_jobs_have_run() -> None:
    background = Background(limit=1)
    background.start()
    assert background.submit(int)
    assert background.flush(SOON_S)
    assert background.submit(int)
    assert background.stop(SOON_S)
    assert background.dropped == 0


def test_submitting_never_waits() -> None:
    background, gate = Background(limit=100), Gate()
    background.start()
    background.submit(gate)
    assert gate.entered.wait(SOON_S)
    for number in range(1000):
        background.submit(int, number)
    assert background.dropped == 900
    gate.go_on.set()
    assert background.stop(SOON_S)


def test_the_interpreter_is_given_up_between_jobs(
    background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the training thread waits for one job at most; but nobody is kept waiting for the end of all."""
    pauses: list[int] = []
    monkeypatch.setattr(background_module, "sleep", lambda seconds: pauses.append(background.queued))
    ran = threading.Event()
    for _ in range(4):
        background.submit(int)
    background.submit(ran.set)
    background.start()
    assert ran.wait(SOON_S)
    assert pauses == [4, 3, 2, 1]
    for _ in range(4):
        background.submit(int)
    assert background.stop(SOON_S)
    assert len(pauses) < 8


def test_a_job_that_fails_is_a_fault_and_the_next_one_runs(
    background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[int] = []
    background.start()
    for number in range(3):
        background.submit(int, "no number")
        background.submit(ran.append, number)
    assert background.flush(SOON_S)
    assert ran == [0, 1, 2]
    assert faults.counts()["background"] == 3
    assert len([record for record in caplog.records if record.name == "rlhf_otel"]) == 1


def test_flushing_waits_for_what_was_there_and_is_bounded(background: Background) -> None:
    gate, ran = Gate(), threading.Event()
    background.start()
    background.submit(gate)
    background.submit(ran.set)
    assert not background.flush(0.05)
    assert not ran.is_set()
    gate.go_on.set()
    assert background.flush(SOON_S)
    assert ran.is_set()


def test_stopping_runs_what_is_queued(background: Background) -> None:
    ran: list[int] = []
    background.start()
    for number in range(100):
        background.submit(ran.append, number)
    assert background.stop(SOON_S)
    assert ran == list(range(100))
    assert background.stop(SOON_S), "again"
    assert not background.flush(SOON_S)


def test_stopping_is_bounded() -> None:
    background, gate = Background(), Gate()
    background.start()
    background.submit(gate)
    assert gate.entered.wait(SOON_S)
    began = time.monotonic()
    assert not background.stop(0.05)
    assert time.monotonic() - began < SOON_S / 2
    gate.go_on.set()
    assert background.stop(SOON_S)


def test_stopping_what_never_started_is_harmless() -> None:
    assert Background().stop(SOON_S)


def test_what_comes_after_the_end_is_dropped_and_counted(background: Background) -> None:
    background.start()
    assert background.stop(SOON_S)
    assert not background.submit(int)
    assert (background.dropped, background.queued) == (1, 0)


def test_jobs_may_submit_jobs(background: Background) -> None:
    ran = threading.Event()
    background.start()
    background.submit(background.submit, ran.set)
    assert ran.wait(SOON_S)


def test_threads_may_submit_at_once(background: Background) -> None:
    ran: list[tuple[int, int]] = []
    background.start()

    def work(name: int) -> None:
        for number in range(500):
            background.submit(ran.append, (name, number))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert background.flush(SOON_S)
    assert len(ran) == 2000
    for name in range(4):
        assert [number for who, number in ran if who == name] == list(range(500))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_neither_hangs_nor_runs_the_parent_s_jobs(background: Background) -> None:
    gate = Gate()
    background.start()
    background.submit(gate)
    assert gate.entered.wait(SOON_S)
    child = os.fork()
    if child == 0:
        submitted = background.submit(int)
        bounded = not background.flush(SOON_S) and background.stop(SOON_S)
        os._exit(0 if submitted and bounded else 1)
    _, status = os.waitpid(child, 0)
    gate.go_on.set()
    assert os.waitstatus_to_exitcode(status) == 0
    assert background.flush(SOON_S)
