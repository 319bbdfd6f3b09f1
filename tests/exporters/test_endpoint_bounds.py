"""The endpoint and clients that mean harm or are too many, too slow or gone: each is bounded, and hurts nobody."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
import time

import pytest
from served import AS_PROMETHEUS, Serve, Steps, ask, connected, eventually, get, raw

from rlhf_otel import faults

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# Nonsense


def test_a_body_is_not_taken_for_a_request(serve: Serve) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(smuggled), smuggled)
    with raw(serve(), request) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"405" in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n",
        b"GET /metrics\r\n\r\n",
    ],
    ids=["tls", "long-path", "many-headers", "long-header", "version", "empty", "http-0.9"],
)
def test_nonsense_is_refused_and_hurts_nobody(serve: Serve, request_: bytes) -> None:
    endpoint = serve()
    with raw(endpoint, request_) as connection, contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    assert get(endpoint)[0] == 200
    assert faults.total() == 0


# Many and slow clients


def test_over_the_limit_a_connection_is_refused_at_once(serve: Serve) -> None:
    endpoint = serve(max_connections=2)
    with connected(endpoint) as first, connected(endpoint) as second:
        assert ask(first, "/metrics")[0].status == ask(second, "/metrics")[0].status == 200
        with raw(endpoint) as third:
            answer = third.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert third.recv(1) == b""
        assert endpoint.refused == 1
        assert ask(first, "/metrics")[0].status == 200
    assert eventually(lambda: get(endpoint)[0] == 200)
    assert faults.total() == 0


def test_two_hundred_clients_and_some_slow_ones(serve: Serve) -> None:
    endpoint = serve(request_timeout_s=5)
    start = threading.Barrier(201)
    statuses: list[int] = []

    def client() -> None:
        start.wait(10)
        try:
            statuses.append(get(endpoint)[0])
        except (ConnectionError, http.client.HTTPException):
            statuses.append(0)  # refused, and reset before the answer was read

    threads = [threading.Thread(target=client) for _ in range(200)]
    with contextlib.ExitStack() as stack:
        prometheus = stack.enter_context(connected(endpoint))
        assert ask(prometheus, "/metrics", **AS_PROMETHEUS)[0].status == 200
        for _ in range(5):
            stack.enter_context(raw(endpoint, b"GET /metrics HTTP/1.1\r\nX-Slow: "))
        for thread in threads:
            thread.start()
        start.wait(10)
        for _ in range(20):
            assert ask(prometheus, "/metrics", **AS_PROMETHEUS)[0].status == 200
        for thread in threads:
            thread.join(15)
        assert len(statuses) == 200
        assert set(statuses) <= {200, 503, 0}
        assert statuses.count(200) + endpoint.refused >= 200
        assert statuses.count(200) >= 50
        assert get(endpoint)[0] == 200
    assert faults.total() == 0


def test_a_client_that_dribbles_is_cut_off(serve: Serve) -> None:
    endpoint = serve(request_timeout_s=0.5)
    began = time.monotonic()
    with raw(endpoint, b"GET /metrics HTTP/1.1\r\nX-Slow: ") as connection:
        connection.settimeout(0.1)
        while time.monotonic() - began < 5:
            with contextlib.suppress(TimeoutError):
                try:
                    connection.sendall(b"a")
                    if connection.recv(1) == b"":
                        break
                except ConnectionError:
                    break
    assert 0.4 < time.monotonic() - began < 3
    assert get(endpoint)[0] == 200
    assert faults.total() == 0


def test_only_a_prometheus_may_stay_between_requests(serve: Serve) -> None:
    endpoint = serve(request_timeout_s=0.3)
    with connected(endpoint) as curl, connected(endpoint) as prometheus:
        ask(prometheus, "/metrics", **AS_PROMETHEUS)
        ask(curl, "/metrics", User_Agent="curl/8")
        assert curl.sock.recv(1) == b""
        kept = prometheus.sock
        assert ask(prometheus, "/metrics", **AS_PROMETHEUS)[0].status == 200
        assert prometheus.sock is kept


def test_a_client_that_leaves_midway_is_no_fault(serve: Serve, steps: Steps) -> None:
    endpoint = serve()
    steps.go_on.clear()
    with raw(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n") as connection:
        assert steps.entered.acquire(timeout=5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
    steps.go_on.set()
    assert get(endpoint)[0] == 200
    assert faults.total() == 0


@pytest.mark.skipif(resource is None, reason="needs POSIX resource limits")
def test_running_out_of_files_is_a_fault_that_passes(serve: Serve) -> None:
    endpoint = serve()
    with socket.socket() as connection, open(os.devnull) as last:  # noqa: PTH123 - a descriptor is wanted
        connection.settimeout(10)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, before[1]))
        try:
            connection.connect(("127.0.0.1", endpoint.port))
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert eventually(lambda: faults.counts()["endpoint"] > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
    assert faults.counts()["endpoint"] <= 3
