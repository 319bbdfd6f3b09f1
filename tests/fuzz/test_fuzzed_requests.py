"""Requests to the endpoint, byte by byte: whatever comes, the next scrape is answered, and no fault is ours."""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Iterator

import pytest
from hostile import fuzzed
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge

from rlhf_otel import faults
from rlhf_otel.exporters.endpoint import Endpoint
from rlhf_otel.exporters.protection import Protection
from rlhf_otel.password_hash import Scrypt
from rlhf_otel.web_config import WebConfig


@pytest.fixture(scope="module", params=["open", "guarded"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    registry = CollectorRegistry()
    Gauge("test_steps", "Steps.", registry=registry).set(7)
    users = {"prometheus": Scrypt.of(b"secret")} if request.param == "guarded" else {}
    protection = Protection("localhost", web=WebConfig(users=users))
    served = Endpoint(
        "localhost", 0, registry, lambda: (True, ""), request_timeout_s=2, protection=protection
    )
    served.start()
    yield served
    served.close()


PIECES = st.sampled_from(
    [b"GET ", b"HEAD ", b"POST ", b"/metrics", b"/healthz", b"/", b"*", b"http://a/metrics", b" HTTP/1.1", b" HTTP/1.0",
     b" HTTP/2.0", b"\r\n", b"\n", b"\r", b": ", b"Host", b"localhost", b"evil.example", b"Content-Length", b"-1", b"10",
     b"Transfer-Encoding", b"chunked", b"Expect", b"100-continue", b"Connection", b"keep-alive", b"close", b"Upgrade",
     b"Accept", b"application/openmetrics-text;version=", b"Accept-Encoding", b"gzip;q=", b"Authorization", b"Basic ",
     b"Bearer ", b"cHJvbWV0aGV1czpzZWNyZXQ=", b"X-Prometheus-Scrape-Timeout-Seconds", b"1e999", b"nan",
     b"User-Agent", b"Prometheus/3", b"\x00", b"\xff\xfe", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"A" * 70_000]
)  # fmt: skip
REQUESTS = st.lists(PIECES | st.binary(max_size=20), max_size=20).map(b"".join)
WHOLE = st.builds(
    lambda path, headers: b"GET " + path + b" HTTP/1.1\r\n" + b"".join(headers) + b"\r\n",
    st.sampled_from([b"/metrics", b"/", b"/healthz", b"/%2e%2e"]),
    st.lists(
        st.tuples(PIECES, PIECES | st.binary(max_size=20)).map(lambda pair: b": ".join(pair) + b"\r\n"),
        max_size=5,
    ),
)


@fuzzed
@given(sent=REQUESTS | WHOLE)
@example(sent=b"GET GET ")
@example(sent=b"GET /metrics\r\n\r\n")
def test_any_request(endpoint: Endpoint, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=10) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may have hung up already
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                answer += part
    assert not answer or answer.startswith(b"HTTP/1.")
    assert b"Traceback" not in answer
    asked = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=10)
    with contextlib.closing(asked):
        asked.request("GET", "/metrics", headers={"Authorization": "Basic cHJvbWV0aGV1czpzZWNyZXQ="})
        assert asked.getresponse().status in (200, 429)
    assert faults.total() == 0
