"""Webhooks, to a real HTTP server: what arrives, what is tried again, and where none may go."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from anomalies import IDENTITY, KL_RUNAWAY

from rlhf_otel.actions import addresses
from rlhf_otel.actions.webhook import DeliveryError, Webhook, message_of, signature

SECRET = "a-shared-secret"


class Server:
    """Answers with the given statuses, one after the other, then 200."""

    def __init__(self, statuses: list[int]) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((dict(self.headers), body))
                self.send_response(statuses.pop(0) if statuses else 200)
                self.send_header("Location", f"{server.url}elsewhere")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def statuses() -> list[int]:
    return []


@pytest.fixture
def server(statuses: list[int]) -> Iterator[Server]:
    running = Server(statuses)
    yield running
    running.http.shutdown()
    running.http.server_close()


def deliver(url: str, **more: Any) -> None:
    hook = Webhook(url, **{"first_pause_s": 0.001, "timeout_s": 30.0, **more})
    hook.deliver(message_of(KL_RUNAWAY, IDENTITY), threading.Event())


def test_what_arrives_says_what_happened_where(server: Server) -> None:
    deliver(server.url)
    headers, body = server.requests[0]
    said = json.loads(body)
    assert headers["Content-Type"] == "application/json"
    assert said["version"] == 1
    assert (said["run_id"], said["attempt"], said["team"]) == ("run-7", 2, "alignment")
    assert (said["rule"], said["severity"], said["step"]) == ("KLRunaway", "critical", 100)
    assert said["time"] == KL_RUNAWAY.time_ns / 1e9


def test_a_receiver_can_tell_that_it_is_ours(server: Server) -> None:
    deliver(server.url, secret=SECRET)
    headers, body = server.requests[0]
    timestamp = headers["X-Rlhf-Otel-Timestamp"]
    assert headers["X-Rlhf-Otel-Signature"] == signature(SECRET, timestamp, body)
    assert headers["X-Rlhf-Otel-Signature"] != signature("another", timestamp, body)
    assert headers["X-Rlhf-Otel-Signature"] != signature(SECRET, timestamp, body + b" ")


def test_the_signature_is_hmac_sha256() -> None:
    # RFC 4231, test case 2: key "Jefe", data "what do ya want for nothing?"; here split at a point.
    known = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    import hashlib
    import hmac

    assert hmac.new(b"Jefe", b"what do ya want for nothing?", hashlib.sha256).hexdigest() == known
    expected = hmac.new(b"Jefe", b"1.body", hashlib.sha256).hexdigest()
    assert signature("Jefe", "1", b"body") == f"sha256={expected}"


def test_without_a_secret_nothing_is_signed(server: Server) -> None:
    deliver(server.url)
    assert not any("signature" in name.lower() for name in server.requests[0][0])


@pytest.mark.parametrize("statuses", [[503, 429, 500]])
def test_what_may_pass_is_tried_again_as_the_same_delivery(server: Server) -> None:
    deliver(server.url)
    keys = {headers["Idempotency-Key"] for headers, _ in server.requests}
    assert len(server.requests) == 4
    assert len(keys) == 1


@pytest.mark.parametrize("statuses", [[400], [401], [404], [302]])
def test_a_refusal_or_redirect_is_final(server: Server, statuses: list[int]) -> None:
    status = statuses[0]
    with pytest.raises(DeliveryError, match=f"status {status}"):
        deliver(server.url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("statuses", [[500] * 9])
def test_attempts_are_bounded(server: Server) -> None:
    with pytest.raises(DeliveryError, match="attempt 3"):
        deliver(server.url, retries=2)
    assert len(server.requests) == 3


@pytest.mark.parametrize("statuses", [[500] * 9])
def test_a_pause_ends_with_the_run(server: Server) -> None:
    ending = threading.Event()
    ending.set()
    with pytest.raises(DeliveryError):
        Webhook(server.url, first_pause_s=600.0).deliver({}, ending)
    assert len(server.requests) == 1


def test_a_receiver_that_hangs_costs_its_timeout_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DeliveryError, match="Timeout"):
            deliver(url, timeout_s=0.1, retries=1)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    with pytest.raises(DeliveryError, match="ConnectionRefused"):
        deliver(url, retries=0)


def test_what_is_not_finite_is_text(server: Server) -> None:
    anomaly = replace(KL_RUNAWAY, value=math.nan, baseline=math.inf, observed=-math.inf)
    Webhook(server.url).deliver(message_of(anomaly, IDENTITY), threading.Event())
    said = json.loads(server.requests[0][1])
    assert (said["value"], said["baseline"], said["observed"]) == ("NaN", "Infinity", "-Infinity")


# --- where none may go


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "::1", "fe80::1%eth0", "fc00::1", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1", "224.0.0.1",
        "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::a00:1", "::ffff:0:10.0.0.1", "fec0::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not addresses.public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_addresses_that_are(address: str) -> None:
    assert addresses.public(address)


def resolve_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", getaddrinfo)


def test_a_public_name_that_leads_inside_is_refused_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    port = server.http.server_address[1]
    with pytest.raises(DeliveryError, match="not a public address"):
        deliver(f"https://metadata.example.org:{port}/")
    assert server.requests == []


def test_a_name_that_is_listed_may_lead_inside(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    resolve_to(monkeypatch, "127.0.0.1")
    port = server.http.server_address[1]
    deliver(f"http://alerts.internal:{port}/", hosts=("alerts.internal",))
    assert server.requests[0][0]["Host"] == f"alerts.internal:{port}"
