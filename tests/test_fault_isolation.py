"""Telemetry faults: logged once, counted always, kept from training, and raised where a test asks for it."""

from __future__ import annotations

import logging
import threading

import pytest

from rlhf_otel import faults


def fail(place: str = "sources", doing: str = "testing", error: BaseException | None = None) -> None:
    with faults.isolated(place, doing):
        raise error or ValueError("injected")


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "rlhf_otel"]


def test_every_place_starts_at_zero() -> None:
    assert faults.counts() == dict.fromkeys(faults.PLACES, 0)
    assert faults.total() == 0


def test_a_fault_goes_no_further_and_is_counted() -> None:
    fail("journal")
    fail("journal")
    fail("traces")
    assert {place: count for place, count in faults.counts().items() if count} == {"journal": 2, "traces": 1}
    assert faults.total() == 3


def test_a_kind_of_fault_is_logged_once_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        fail("journal", "writing")
    (record,) = said(caplog)
    assert record.levelno == logging.WARNING
    assert "writing" in record.getMessage()
    assert "training goes on" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


def test_another_place_deed_or_error_is_another_kind(caplog: pytest.LogCaptureFixture) -> None:
    fail("journal", "writing")
    fail("traces", "writing")
    fail("journal", "rotating")
    fail("journal", "writing", OSError())
    fail("journal", "writing", OSError("other text"))
    assert len(said(caplog)) == 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_is_no_fault(stop: type[BaseException]) -> None:
    with pytest.raises(stop):
        fail(error=stop())
    assert faults.total() == 0


def test_faults_are_raised_while_a_test_asks_for_it() -> None:
    with pytest.raises(ValueError, match="injected"), faults.raise_faults():
        fail()
    assert faults.total() == 1, "and counted"
    fail()


def test_asking_twice_needs_ending_twice() -> None:
    with faults.raise_faults():
        with faults.raise_faults():
            pass
        with pytest.raises(ValueError, match="injected"):
            fail()
    fail()


def test_a_handler_of_a_hot_path_does_the_same() -> None:
    faults.handle("phases", ValueError("injected"), "beginning a phase")
    assert faults.counts()["phases"] == 1
    error = ValueError("injected")
    with pytest.raises(ValueError, match="injected") as raised, faults.raise_faults():
        faults.handle("phases", error, "beginning a phase")
    assert raised.value is error


def test_forgetting_starts_afresh(caplog: pytest.LogCaptureFixture) -> None:
    fail()
    faults.reset()
    assert faults.total() == 0
    fail()
    assert len(said(caplog)) == 2


def test_counts_are_a_copy() -> None:
    faults.counts()["journal"] = 99
    assert faults.total() == 0


def test_faults_of_many_threads_are_all_counted(caplog: pytest.LogCaptureFixture) -> None:
    threads = [threading.Thread(target=lambda: [fail() for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert faults.total() == 1600
    assert len(said(caplog)) == 1


def test_a_fault_while_a_fault_is_counted_blocks_nobody() -> None:
    """As in a signal handler that interrupts the holder of the lock."""
    with faults._lock:
        fail()
    assert faults.total() == 1
