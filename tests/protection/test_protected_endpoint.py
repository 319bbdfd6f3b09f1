"""TLS, client certificates, passwords, tokens and names, over real sockets: who gets in, and who does not."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import time
from pathlib import Path

import pytest
from web_configurations import MUTUAL, PASSWORD, TLS, TOKEN, TOKENS, USERS, Serve, client_context

from rlhf_otel import faults
from rlhf_otel.exporters import credentials, protection
from rlhf_otel.exporters.endpoint import Endpoint


def ask(
    endpoint: Endpoint, context: ssl.SSLContext | None = None, path: str = "/metrics", **headers: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer."""
    kind = http.client.HTTPConnection
    connection = (
        kind("localhost", endpoint.port, timeout=10)
        if context is None
        else http.client.HTTPSConnection("localhost", endpoint.port, timeout=10, context=context)
    )
    with contextlib.closing(connection):
        connection.request(
            "GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        answer.read()
        return answer.status, dict(answer.headers)


def basic(password: str, user: str = "prometheus") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# --- TLS


def test_https_and_nothing_else(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS)
    assert endpoint.url == f"https://localhost:{endpoint.port}"
    assert ask(endpoint, client_context(folder))[0] == 200
    status, _ = ask(endpoint)
    assert status == 400, "plain HTTP is told so"
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(endpoint, ssl.create_default_context())
    assert faults.total() == 0


def test_an_old_version_of_tls_is_refused(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS + "  min_version: TLS13\n")
    old = client_context(folder)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        ask(endpoint, old)
    assert ask(endpoint, client_context(folder))[0] == 200


def test_a_connection_is_kept_and_closing_is_quick(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS)
    connection = http.client.HTTPSConnection(
        "localhost", endpoint.port, timeout=10, context=client_context(folder)
    )
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", "/metrics")
            kept = connection.sock
            assert connection.getresponse().read()
        assert connection.sock is kept
        endpoint.close()
        connection.request("GET", "/metrics")
        with pytest.raises((ConnectionError, http.client.HTTPException, OSError)):
            connection.getresponse()


def test_a_handshake_that_is_dribbled_is_cut_off_and_holds_nobody_up(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS, request_timeout_s=1.0)
    with socket.create_connection(("localhost", endpoint.port), timeout=0.05) as slow:
        slow.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        assert ask(endpoint, client_context(folder))[0] == 200
        deadline = time.monotonic() + 20
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                slow.sendall(b"\x00")
                with contextlib.suppress(TimeoutError):
                    if slow.recv(64) == b"":
                        break
        assert time.monotonic() < deadline
    assert faults.total() == 0


def test_more_connections_than_there_is_room_for(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS, max_connections=1)
    with socket.create_connection(("localhost", endpoint.port), timeout=10):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(endpoint, client_context(folder))
        assert endpoint.refused == 1


# --- client certificates


def test_clients_without_the_right_certificate(serve: Serve, folder: Path) -> None:
    endpoint = serve(MUTUAL)
    assert ask(endpoint, client_context(folder, "client"))[0] == 200
    for name in (None, "stranger"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(endpoint, client_context(folder, name))
    assert faults.total() == 0


def test_only_the_names_that_are_allowed(serve: Serve, folder: Path) -> None:
    endpoint = serve(MUTUAL + "  client_allowed_sans: [prometheus.example]\n")
    assert ask(endpoint, client_context(folder, "client"))[0] == 200
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        ask(endpoint, client_context(folder, "guest"))


def test_a_certificate_only_if_given(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS + "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: ca.crt\n")
    assert ask(endpoint, client_context(folder))[0] == 200
    assert ask(endpoint, client_context(folder, "client"))[0] == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        ask(endpoint, client_context(folder, "stranger"))


# --- passwords and tokens


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/", "/nowhere"])
def test_every_page_wants_the_password(serve: Serve, path: str) -> None:
    endpoint = serve(USERS)
    status, headers = ask(endpoint, path=path)
    assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="rlhf_otel", charset="UTF-8"')
    assert ask(endpoint, path=path, Authorization=basic(PASSWORD))[0] == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize(
    "authorization",
    [
        basic("wrong"),
        basic(PASSWORD, "somebody"),
        basic(PASSWORD, ""),
        basic(""),
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"prometheus").decode(),
        f"Bearer {PASSWORD}",
        f"Digest {PASSWORD}",
        "Basic " + "A" * 10_000,
    ],
)
def test_wrong_credentials(serve: Serve, authorization: str) -> None:
    assert ask(serve(USERS), Authorization=authorization)[0] == 401


def test_a_token(serve: Serve) -> None:
    endpoint = serve(TOKENS)
    assert ask(endpoint, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(endpoint, Authorization=f"bearer {TOKEN}")[0] == 200
    status, headers = ask(endpoint, Authorization=f"Bearer {TOKEN}x")
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="rlhf_otel"')


def test_who_was_right_gets_in_while_others_guess() -> None:
    """Without a look at the hash, and the others get a look a second."""
    looks: list[bytes] = []

    class Counted:
        def matches(self, secret: bytes) -> bool:
            looks.append(secret)
            return secret == b"right"

    now = [0.0]
    asked = credentials.Credentials({"prometheus": Counted()}, (), clock=lambda: now[0])
    assert asked.check(basic("right", "prometheus")) is credentials.Verdict.RIGHT
    assert asked.check(basic("guess", "prometheus")) is credentials.Verdict.WRONG
    for number in range(20):
        assert asked.check(basic(f"guess{number}", "prometheus")) is credentials.Verdict.LATER
        assert asked.check(basic("right", "prometheus")) is credentials.Verdict.RIGHT
    assert looks == [b"right", b"guess"]
    assert asked.check(basic("guess", "prometheus")) is credentials.Verdict.WRONG
    assert looks == [b"right", b"guess"], "who was wrong is known too, and keeps nobody from being looked at"
    now[0] += credentials.PAUSE_S
    for number in range(2 * credentials.MAX_REMEMBERED):
        assert asked.check(basic(f"other{number}", "prometheus")) is credentials.Verdict.WRONG
        now[0] += credentials.PAUSE_S
    assert asked.check(basic("guess", "prometheus")) is credentials.Verdict.WRONG
    assert looks.count(b"guess") == 2, "for a while"


def test_who_guesses_is_asked_to_come_later(serve: Serve) -> None:
    endpoint = serve(USERS)
    assert ask(endpoint, Authorization=basic("a"))[0] == 401
    status, headers = ask(endpoint, Authorization=basic("b"))
    assert (status, headers["Retry-After"]) == (429, "1")


# --- names


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9464", 200),
        ("localhost.", 200),
        ("127.0.0.1:9464", 200),
        ("[::1]:9464", 200),
        ("10.0.0.7", 200),
        (socket.gethostname(), 200),
        ("run.localhost", 200),
        ("attacker.example", 421),
        ("attacker.example:9464", 421),
        ("localhost.attacker.example", 421),
        ("localhost@attacker.example", 421),
        ("", 421),
        ("[", 421),
        ("[::1", 200),
        ("127.0.0.1.attacker.example", 421),
        ("0x7f000001", 421),
    ],
)
def test_names_on_loopback(serve: Serve, host: str, status: int) -> None:
    assert ask(serve(), Host=host)[0] == status


def test_two_host_headers_are_no_name(serve: Serve) -> None:
    endpoint = serve()
    with socket.create_connection(("localhost", endpoint.port), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: attacker.example\r\n\r\n")
        assert connection.recv(64).startswith(b"HTTP/1.1 421 ")


def test_more_names_and_other_addresses(serve: Serve) -> None:
    named = serve(hosts=("metrics.example",))
    assert ask(named, Host="Metrics.example")[0] == 200
    assert ask(named, Host="other.example")[0] == 421
    assert ask(serve(host="0.0.0.0"), Host="whatever.example")[0] == 200, "its names are the network's"
    assert ask(serve(host="0.0.0.0", hosts=("metrics.example",)), Host="other.example")[0] == 421
    assert ask(serve(hosts=("*",)), Host="other.example")[0] == 200


# --- files that change


class Clock:
    """Jumps by as much as lies between two looks, each time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += protection.LOOK_S
        return self.now


def replace(path: Path, by: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(by.read_bytes())
    fresh.replace(path)


def serial(endpoint: Endpoint, folder: Path) -> str:
    with (
        socket.create_connection(("localhost", endpoint.port), timeout=10) as plain,
        client_context(folder).wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return str((secure.getpeercert() or {})["serialNumber"])


def test_a_renewed_certificate_is_taken_up(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS, clock=Clock())
    before = serial(endpoint, folder)
    assert serial(endpoint, folder) == before
    replace(folder / "server.crt", folder / "renewed.crt")
    ask(endpoint, client_context(folder))  # between the two files: the old ones stay in force
    assert faults.counts()["endpoint"] >= 1
    replace(folder / "server.key", folder / "renewed.key")
    ask(endpoint, client_context(folder))
    assert serial(endpoint, folder) != before


def test_a_changed_password_is_taken_up_on_a_connection_that_is_kept(serve: Serve, tmp_path: Path) -> None:
    endpoint = serve(USERS, clock=Clock())
    connection = http.client.HTTPConnection("localhost", endpoint.port, timeout=10)
    with contextlib.closing(connection):

        def status() -> int:
            connection.request("GET", "/", headers={"Authorization": basic(PASSWORD)})
            answer = connection.getresponse()
            answer.read()
            return answer.status

        assert status() == 200
        (tmp_path / "web.yaml").write_text("basic_auth_users: {prometheus: broken}")
        assert status() == 200, "and not open to everybody"
        assert ask(endpoint)[0] == 401
        (tmp_path / "web.yaml").write_text(USERS.replace("prometheus", "somebody-else"))
        assert status() in (401, 429)


def test_a_configuration_that_goes_away_opens_nothing(serve: Serve, folder: Path) -> None:
    endpoint = serve(TLS + USERS, clock=Clock())
    (folder / "web.yaml").unlink()
    assert ask(endpoint, client_context(folder))[0] == 401
    (folder / "web.yaml").write_text("")
    assert ask(endpoint, client_context(folder))[0] == 401
    assert ask(endpoint)[0] == 400
