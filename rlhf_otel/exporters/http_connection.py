"""One HTTP/1.1 connection: its requests one after the other, each within a time limit, none logged.

``http.server`` bounds the request line (64 KiB) and the headers (100 of 64 KiB each). Its timeout is per read, though,
so that a client that sends a byte now and then stays for hours; here both limits are for all of a request.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, cast

Peer = tuple[str, int]
"""Address and port of the other end of a connection."""

MAX_REQUEST_BYTES: Final = 64 * 2**10
"""Of a request with its headers; a proxy's cookies and tokens are some KiB."""
_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for, with GET or HEAD."""

    method: str
    path: str
    peer: Peer
    header: Callable[[str], str | None]
    """The value of a header, several of one name joined by commas; None without it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    body: bytes
    content_type: str = TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()
    keep_s: float = 0.0
    """How long the connection may stay idle afterwards, if longer than a request may take."""
    sent: Callable[[], None] | None = None
    """Called when all of it has been handed to the network."""


class HttpConnection(BaseHTTPRequestHandler):
    """Serves a connection until either end closes it; OSError when the other end vanishes or is too slow."""

    protocol_version = "HTTP/1.1"
    # A request without a version gets a status as well, unlike in HTTP/0.9.
    default_request_version = "HTTP/1.0"
    disable_nagle_algorithm = True  # or the body, a second write, waits until the head is acknowledged

    def __init__(
        self,
        connection: socket.socket,
        peer: Peer,
        answer: Callable[[Request], Answer],
        timeout_s: float,
    ) -> None:
        self._peer = peer
        self._answer = answer
        self._timeout_s = timeout_s
        self._idle_s = timeout_s
        super().__init__(connection, peer, cast(Any, None))  # it has no socketserver

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _DeadlineReader(self.connection)
        self.rfile = self._requests = io.BufferedReader(self._reader)

    def handle_one_request(self) -> None:
        self.close_connection = True
        self._reader.allow(self._idle_s, MAX_REQUEST_BYTES)
        if not self._requests.peek(1):
            return
        self._reader.allow(self._timeout_s, MAX_REQUEST_BYTES)
        try:
            super().handle_one_request()
        except _TooLargeError:
            self.wfile.write(_TOO_LARGE)

    def do_GET(self) -> None:
        request = Request(self.command, self.path.partition("?")[0], self._peer, self._header)
        answer = self._answer(request)
        self._send(answer)
        self._idle_s = max(self._timeout_s, answer.keep_s)
        if answer.sent is not None:
            answer.sent()

    do_HEAD = do_GET  # noqa: N815 - the names that http.server looks for

    def do_POST(self) -> None:
        status, allow = HTTPStatus.METHOD_NOT_ALLOWED, (("Allow", "GET, HEAD"),)
        self._send(Answer(b"only GET and HEAD\n", status=status, headers=allow))

    do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = do_POST  # noqa: N815

    def version_string(self) -> str:
        return "rlhf_otel"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are not logged: a scrape every second would drown the run's own log."""

    def _header(self, name: str) -> str | None:
        values = self.headers.get_all(name)
        return None if values is None else ",".join(values)

    def _send(self, answer: Answer) -> None:
        self.connection.settimeout(self._timeout_s)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.close_connection or self._has_body():
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _has_body(self) -> bool:
        """A body is not read, and the request after it could not be told from it."""
        return self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers


class _TooLargeError(ConnectionError):
    """A request is longer than it may be."""


class _DeadlineReader(io.RawIOBase):
    """Reads a connection until a moment and a size that its owner moves, however often a byte arrives."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = 0.0
        self._bytes_left = 0

    def allow(self, seconds: float, size: int) -> None:
        """Let reads go on for ``seconds`` from now, later ones raise TimeoutError; and for ``size`` bytes."""
        self._deadline = time.monotonic() + seconds
        self._bytes_left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        if self._bytes_left <= 0:
            raise _TooLargeError("the request is too large")
        self._connection.settimeout(left)
        count = self._connection.recv_into(buffer)
        self._bytes_left -= count
        return count
