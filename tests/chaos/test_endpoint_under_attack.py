"""The endpoint where its port is taken, where clients flood it, and where they stay and say nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from awaiting import Awaiting
from observing import journal, once_per_fault, scrape
from otlp_receiver import free_port, wait_until
from outcomes import STEPS, Outcome, outcome
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, faults, serving

CLIENTS = 200


def test_a_port_that_is_taken(unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        addresses: list[float] = []

        class Look(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                addresses.append(scrape()("rlhf_step"))

        observed = outcome(tmp_path, [TelemetryCallback(metrics_port=port), Look()])
    assert observed == unobserved
    assert len(addresses) == STEPS
    assert sum(f"port {port} is taken" in record.getMessage() for record in caplog.records) == 1
    assert faults.counts()["endpoint"] == 1


def test_an_address_that_is_not_ours(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    telemetry = TelemetryCallback(
        metrics_host="192.0.2.7", metrics_port=free_port(), journal=tmp_path / "journal"
    )
    assert outcome(tmp_path, [telemetry]) == unobserved
    assert list(once_per_fault(caplog).values()) == [1]
    assert faults.counts()["endpoint"] == 1
    assert len(journal(tmp_path / "journal", "step")) == STEPS


class Crowd:
    """Threads that all do the same to the endpoint of this process, as soon as there is one, until the end."""

    def __init__(self, deed: Callable[[], object], size: int) -> None:
        self.deeds = 0
        self._deed = deed
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._work) for _ in range(size)]

    def __enter__(self) -> Crowd:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._done.is_set():
            # The endpoint comes and goes, and turns away whom it has no room for.
            with contextlib.suppress(AssertionError, OSError, HTTPException):
                self._deed()
                with self._lock:
                    self.deeds += 1
            time.sleep(0.001)


@contextlib.contextmanager
def slow_loris(clients: int) -> Iterator[list[socket.socket]]:
    """Connections that send the beginning of a request, and no more."""
    held: list[socket.socket] = []
    stop = threading.Event()

    def hold() -> None:
        wait_until(lambda: serving.address() is not None or stop.is_set(), 60)
        place = urlsplit(serving.address() or "")
        while len(held) < clients and not stop.is_set():
            connection = socket.create_connection((place.hostname or "", place.port or 0), timeout=10)
            connection.sendall(b"GET /metrics HT")
            held.append(connection)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield held
    finally:
        stop.set()
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.slow
def test_two_hundred_clients_at_once(unobserved: Outcome, tmp_path: Path) -> None:
    with Crowd(scrape, CLIENTS) as crowd:
        awaited = Awaiting(lambda: crowd.deeds > CLIENTS)
        observed = outcome(tmp_path, [TelemetryCallback(metrics_port=0, journal=tmp_path / "j"), awaited])
    assert observed == unobserved
    assert len(journal(tmp_path / "j", "step")) == STEPS


def test_clients_that_send_half_a_request_and_stay(unobserved: Outcome, tmp_path: Path) -> None:
    answers: list[float] = []

    def a_scrape_gets_through() -> bool:
        with contextlib.suppress(AssertionError, OSError, HTTPException):
            answers.append(scrape()("rlhf_step"))
        return bool(answers)

    with slow_loris(CLIENTS) as held:
        callbacks = [
            TelemetryCallback(metrics_port=0, journal=tmp_path / "j"),
            Awaiting(lambda: len(held) == CLIENTS, 3),
            Awaiting(a_scrape_gets_through),
        ]
        assert outcome(tmp_path, callbacks) == unobserved
    assert answers
    assert len(journal(tmp_path / "j", "step")) == STEPS
    assert faults.total() == 0, "their fault, and not ours"
