"""Collectors of spans and metrics that are down, hang, are slow, hang up, refuse, or take a part."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from awaiting import Awaiting
from observing import journal, once_per_fault
from otlp_receiver import free_port, hanging_server, http_receiver
from outcomes import STEPS, Outcome, outcome

from rlhf_otel import TelemetryCallback, faults


@contextlib.contextmanager
def _down() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def _answering(what: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """A server that does ``what`` with each connection, until the end."""
    stop = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.05)
    threads: list[threading.Thread] = []

    def accept() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listening.accept()
                connection.setblocking(True)
                threads.append(threading.Thread(target=what, args=(connection, stop)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        stop.set()
        accepting.join()
        for thread in threads:
            thread.join()
        listening.close()


def _reset(connection: socket.socket, stop: threading.Event) -> None:
    connection.recv(100)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _drip(connection: socket.socket, stop: threading.Event) -> None:
    """One byte of an answer at a time, for longer than anybody has patience."""
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000:
            if stop.wait(0.05):
                break
            connection.sendall(bytes([byte]))
    connection.close()


@contextlib.contextmanager
def _refusing() -> Iterator[str]:
    with http_receiver(400) as receiver:
        yield receiver.endpoint


@contextlib.contextmanager
def _overloaded() -> Iterator[str]:
    with http_receiver(503) as receiver:
        yield receiver.endpoint


@contextlib.contextmanager
def _taking_a_part() -> Iterator[str]:
    with http_receiver(rejects=50) as receiver:
        yield receiver.endpoint


COLLECTORS: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "down": _down,
    "hanging": hanging_server,
    "resetting": lambda: _answering(_reset),
    "slow": lambda: _answering(_drip),
    "refusing": _refusing,
    "overloaded": _overloaded,
    "taking a part": _taking_a_part,
}


@pytest.mark.parametrize(
    ("fault", "protocol"),
    [
        ("hanging", "http/protobuf"),
        ("refusing", "http/protobuf"),
        ("down", "grpc"),
        *(
            pytest.param(fault, "http/protobuf", marks=pytest.mark.slow)
            for fault in ("down", "resetting", "slow", "overloaded", "taking a part")
        ),
        *(pytest.param(fault, "grpc", marks=pytest.mark.slow) for fault in ("hanging", "resetting")),
    ],
)
def test_a_collector_of_spans_that_does_not_take_them(
    fault: str,
    protocol: str,
    unobserved: Outcome,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with COLLECTORS[fault]() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal", trace_one_in=1)
        with caplog.at_level(logging.WARNING):
            assert outcome(tmp_path, [telemetry]) == unobserved
        assert telemetry.run is not None
        assert telemetry.run.view().telemetry.dropped["traces"] > STEPS, "what could not be sent is counted"
    told = once_per_fault(caplog)
    assert [count for doing, count in told.items() if "exporting spans" in doing] == [1], told
    assert len(once_per_fault(caplog)) == 1
    assert faults.counts()["traces"] == 1
    assert len(journal(tmp_path / "journal", "step")) == STEPS


@pytest.mark.parametrize("fault", ["down", "hanging", "resetting", "refusing"])
def test_a_collector_of_metrics_that_does_not_take_them(
    fault: str,
    unobserved: Outcome,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with COLLECTORS[fault]() as endpoint:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{endpoint}/v1/metrics")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1")
        telemetry = TelemetryCallback(
            metrics_port="off", journal=tmp_path / "journal", push_interval_s=1.0, linger_s=0
        )
        tried = Awaiting(lambda: faults.total() > 0)
        with caplog.at_level(logging.WARNING):
            assert outcome(tmp_path, [telemetry, tried]) == unobserved
    assert set(once_per_fault(caplog).values()) == {1}
    assert len(journal(tmp_path / "journal", "step")) == STEPS
