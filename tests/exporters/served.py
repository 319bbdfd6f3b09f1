"""An endpoint as clients meet it: what it serves in tests, and ways to ask it over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

from rlhf_otel.exporters.endpoint import Endpoint

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
AS_PROMETHEUS = {"User-Agent": "Prometheus/2.42.0", "X-Prometheus-Scrape-Timeout-Seconds": "10"}


class Steps:
    """A collector of a gauge, a counter, and a histogram with an exemplar; it can fail, or hang."""

    def __init__(self) -> None:
        self.ended = 0.0
        self.error: Exception | None = None
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def collect(self) -> Iterator[Metric]:
        self.entered.release()
        self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        yield GaugeMetricFamily("test_ended", "Whether the run is over.", value=self.ended)
        yield CounterMetricFamily("test_steps", "Steps.", value=7)
        buckets: list[Any] = [
            ("0.5", 1.0, Exemplar({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, 0.25, 1_700_000_000.0)),
            ("+Inf", 2.0, None),
        ]
        yield HistogramMetricFamily("test_step_seconds", "Duration.", buckets=buckets, sum_value=1.5)


Serve = Callable[..., Endpoint]


@contextlib.contextmanager
def connected(endpoint: Endpoint) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("localhost", endpoint.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    return response, response.read()


def get(
    endpoint: Endpoint, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[int, str, bytes]:
    with connected(endpoint) as connection:
        response, body = ask(connection, path, method, **headers)
        return response.status, response.headers.get("Content-Type", ""), body


def raw(endpoint: Endpoint, request: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", endpoint.port), timeout=10)
    connection.sendall(request)
    return connection


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
