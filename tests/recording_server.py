"""A web service for tests that remembers who asked for what, with which ``traceparent``."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

Answer = Callable[[str, Any], Any]
"""Path and decoded body to what is answered as JSON."""


class Parent(NamedTuple):
    """What a W3C ``traceparent`` header says."""

    trace: int
    span: int
    sampled: bool


class Asked(NamedTuple):
    """A request, by its path; without a parent where it carried no ``traceparent``."""

    path: str
    parent: Parent | None


class RecordingServer:
    """What has been asked at ``address``, in the order of arrival."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[Asked] = []

    def parents(self, prefix: str) -> list[Parent]:
        """The parents of requests below a path, all of which have one."""
        found = [asked.parent for asked in self.asked if asked.path.startswith(prefix)]
        assert None not in found, self.asked
        return [parent for parent in found if parent is not None]


@contextlib.contextmanager
def recording_server(answer: Answer = lambda path, body: {}) -> Iterator[RecordingServer]:
    """A service on a port of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    recording = RecordingServer(f"http://127.0.0.1:{server.server_port}")
    server.RequestHandlerClass = _handler(recording, answer)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield recording
    finally:
        server.shutdown()
        server.server_close()


def _handler(recording: RecordingServer, answer: Answer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            recording.asked.append(Asked(self.path, _parent(self.headers.get("traceparent"))))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said = json.dumps(answer(self.path, json.loads(body) if body else None)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the host's name
            """Say nothing on stderr."""

    return Handler


def _parent(header: str | None) -> Parent | None:
    if header is None:
        return None
    version, trace, span, flags = header.split("-")
    assert version == "00"
    return Parent(int(trace, 16), int(span, 16), bool(int(flags, 16) & 1))
