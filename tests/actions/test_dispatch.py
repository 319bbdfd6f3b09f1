"""Which actions follow an anomaly, how often, and that none of them holds anybody up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from anomalies import IDENTITY, KL_RUNAWAY, LOSS_SPIKE, Control, Told

from rlhf_otel import faults
from rlhf_otel.actions.dispatch import MAX_QUEUED, Dispatch
from rlhf_otel.actions.steering import Steering
from rlhf_otel.profiling.capture import Profiling
from rlhf_otel.settings import load


class Desk:
    """A dispatch with a clock to turn and everything that it works with."""

    def __init__(self, folder: Path) -> None:
        self.now = 1000.0
        self.told = Told()
        self.steering = Steering(0, 1, None, "test")
        self.profiling = Profiling(folder, lambda function, *arguments: function(*arguments))
        self.opened: list[Dispatch] = []

    def open(self, *entries: dict[str, Any]) -> Dispatch:
        dispatch = Dispatch(
            load(actions=list(entries)).actions,
            identity=lambda: IDENTITY,
            steering=self.steering,
            profile=self.profiling.ask,
            describe=lambda anomaly: f"{anomaly.rule} at {anomaly.step}",
            tell=self.told,
            clock=lambda: self.now,
        )
        self.opened.append(dispatch)
        return dispatch


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path)
    yield opened
    for dispatch in opened.opened:
        dispatch.close(30.0)


def test_without_entries_an_anomaly_stays_as_it_is(desk: Desk) -> None:
    dispatch = desk.open()
    assert dispatch.answer(KL_RUNAWAY) is KL_RUNAWAY
    assert dispatch.counts == {}


@pytest.mark.parametrize(
    ("choice", "answered"),
    [
        ({"rule": "KLRunaway"}, ["KLRunaway"]),
        ({"rule": "LossSpike"}, ["LossSpike"]),
        ({"severity": "critical"}, ["KLRunaway"]),
        ({"severity": "info"}, []),
        ({"rule": "KLRunaway", "severity": "critical"}, ["KLRunaway"]),
        ({"rule": "KLRunaway", "severity": "warning"}, []),
    ],
)
def test_an_entry_answers_its_rule_and_severity_alone(
    desk: Desk, choice: dict[str, str], answered: list[str]
) -> None:
    dispatch = desk.open({**choice, "do": "log"})
    found = [dispatch.answer(anomaly) for anomaly in (KL_RUNAWAY, LOSS_SPIKE)]
    assert [anomaly.rule for anomaly in found if anomaly.actions == ("log",)] == answered


def test_a_log_line_has_the_level_that_was_asked_for(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.open({"rule": "KLRunaway", "do": "log", "level": "critical"}).answer(KL_RUNAWAY)
    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [(logging.CRITICAL, "KLRunaway at 100")]


def test_the_cool_down_is_each_rules_own(desk: Desk) -> None:
    calls: list[str] = []
    entry = {"severity": "critical", "do": "log", "cool_down_s": 60}
    dispatch = desk.open(entry, {"rule": "LossSpike", "do": "log", "cool_down_s": 0})
    for later in (0, 59, 1, 60):
        desk.now += later
        calls += dispatch.answer(KL_RUNAWAY).actions
        dispatch.answer(LOSS_SPIKE)
    assert calls == ["log", "log", "log"]
    assert dispatch.counts["log", "done"] == 3 + 4
    assert dispatch.counts["log", "suppressed"] == 1


def test_the_limit_is_for_the_run(desk: Desk) -> None:
    dispatch = desk.open({"severity": "critical", "do": "log", "cool_down_s": 0, "limit": 2})
    answered = [dispatch.answer(KL_RUNAWAY).actions for _ in range(5)]
    assert answered == [("log",)] * 2 + [()] * 3
    assert dispatch.counts["log", "suppressed"] == 3


def test_a_function_gets_the_anomaly_on_another_thread(desk: Desk) -> None:
    got: list[Any] = []
    dispatch = desk.open(
        {"rule": "KLRunaway", "do": "function", "call": lambda a: got.append((a, threading.current_thread()))}
    )
    dispatch.answer(KL_RUNAWAY)
    assert desk.told.wait(1) == [("KLRunaway", "function", "done", "")]
    assert got[0][0] == KL_RUNAWAY
    assert got[0][1] is not threading.current_thread()


def test_a_function_that_raises_is_counted_each_time_and_logged_once(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(anomaly: Any) -> None:
        raise ValueError("broken")

    dispatch = desk.open({"rule": "KLRunaway", "do": "function", "call": broken, "cool_down_s": 0})
    for _ in range(3):
        dispatch.answer(KL_RUNAWAY)
    assert desk.told.wait(3)[0] == ("KLRunaway", "function", "failed", "ValueError: broken")
    assert dispatch.counts["function", "failed"] == faults.counts()["actions"] == 3
    assert len(caplog.records) == 1


def hanging() -> tuple[Callable[[Any], None], threading.Event]:
    release = threading.Event()

    def hang(anomaly: Any) -> None:
        assert release.wait(60)

    return hang, release


def test_a_function_that_hangs_delays_itself_alone(desk: Desk) -> None:
    hang, release = hanging()
    got: list[Any] = []
    dispatch = desk.open(
        {"rule": "KLRunaway", "do": "function", "call": hang, "cool_down_s": 0, "limit": 1000},
        {"rule": "KLRunaway", "do": "function", "call": got.append},
    )
    for _ in range(MAX_QUEUED + 50):
        dispatch.answer(KL_RUNAWAY)  # returns, however many wait
    desk.told.until(("KLRunaway", "function", "done", ""))
    assert len(got) == 1
    assert dispatch.counts["function", "dropped"] >= 49
    release.set()


def test_what_hangs_at_the_end_is_given_up_on(desk: Desk) -> None:
    hang, release = hanging()
    dispatch = desk.open({"rule": "KLRunaway", "do": "function", "call": hang})
    dispatch.answer(KL_RUNAWAY)
    dispatch.close(0.2)
    assert desk.told.outcomes == [("KLRunaway", "function", "dropped", "the run ended before its turn")]
    release.set()


def test_what_is_queued_at_the_end_is_still_done(desk: Desk) -> None:
    got: list[Any] = []
    dispatch = desk.open({"rule": "KLRunaway", "do": "function", "call": got.append, "cool_down_s": 0})
    for _ in range(5):
        dispatch.answer(KL_RUNAWAY)
    dispatch.close(30.0)
    assert len(got) == 5


def test_saving_and_stopping_are_handed_to_the_training_thread(desk: Desk) -> None:
    control = Control()
    desk.open({"rule": "KLRunaway", "do": ["save", "stop"]}).answer(KL_RUNAWAY)
    assert control.flags == (False, False)
    desk.steering.at_step_end(101, control)
    assert control.flags == (True, True)
    assert desk.steering.stopped_because == "KLRunaway at step 100"


def test_one_profile_at_a_time(desk: Desk) -> None:
    dispatch = desk.open({"rule": "KLRunaway", "do": "profile", "cool_down_s": 0, "steps": 2})
    dispatch.answer(KL_RUNAWAY)
    dispatch.answer(KL_RUNAWAY)
    assert [outcome for _, _, outcome, _ in desk.told.outcomes] == ["dropped"]
    for step in (101, 102, 103):
        desk.profiling.at_step_end(step)
    _, _, outcome, path = desk.told.wait(2)[1]
    assert (outcome, Path(path).name) == ("done", "profile-rank0-step-102.json.gz")
    assert Path(path).stat().st_size > 0


def test_a_profile_that_nobody_can_write_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    desk = Desk(tmp_path / "file" / "below")
    desk.open({"rule": "KLRunaway", "do": "profile", "steps": 1}).answer(KL_RUNAWAY)
    desk.profiling.at_step_end(1)
    desk.profiling.at_step_end(2)
    assert desk.told.wait(1)[0][2] == "failed"
    assert faults.counts()["actions"] == 1


def test_a_profile_ends_with_the_run(desk: Desk) -> None:
    desk.open({"rule": "KLRunaway", "do": "profile", "steps": 100}).answer(KL_RUNAWAY)
    desk.profiling.at_step_end(1)
    desk.profiling.close(1)
    assert desk.told.wait(1)[0][2] == "done"
