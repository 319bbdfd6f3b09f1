"""Real OTLP receivers for tests: HTTP and gRPC ones that decode what arrives, one that hangs, and rotel.

Each is a context manager. rotel is a real collector, whose wheel carries the program; it passes on to one of
our receivers, so that what is checked there has been through somebody else's decoder and encoder.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import grpc  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Request = trace_service_pb2.ExportTraceServiceRequest
Response = trace_service_pb2.ExportTraceServiceResponse


class Received(NamedTuple):
    """A span as it arrived, with its own attributes, those of its resource, and the name of its scope."""

    span: Span
    attributes: dict[str, Any]
    resource: dict[str, Any]
    scope: str


class Receiver:
    """What has arrived at ``endpoint``."""

    def __init__(self, endpoint: str, rejects: int = 0) -> None:
        self.endpoint = endpoint
        self._rejects = rejects
        self.requests = 0
        self._received: list[Received] = []
        self._arrived = threading.Condition()

    def accept(self, request: Request) -> Response:
        """Take a decoded request in."""
        with self._arrived:
            self.requests += 1
            self._received.extend(_spans(request))
            self._arrived.notify_all()
        answer = Response()
        if self._rejects:
            answer.partial_success.rejected_spans = self._rejects
            answer.partial_success.error_message = "too old"
        return answer

    @property
    def spans(self) -> list[Received]:
        """All spans so far."""
        with self._arrived:
            return list(self._received)

    def wait_for(self, count: int, timeout_s: float = 10.0) -> list[Received]:
        """All spans, once at least ``count`` have arrived."""
        with self._arrived:
            arrived = self._arrived.wait_for(lambda: len(self._received) >= count, timeout_s)
            assert arrived, f"{len(self._received)} of {count} spans arrived within {timeout_s} s"
            return list(self._received)


@contextlib.contextmanager
def http_receiver(status: int = 200, rejects: int = 0) -> Iterator[Receiver]:
    """An OTLP/HTTP receiver (protobuf); with another ``status`` it refuses everything. Of each request it claims to have
    rejected as many spans as ``rejects`` says."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    receiver = Receiver(f"http://127.0.0.1:{server.server_port}", rejects)
    server.RequestHandlerClass = _handler(receiver, status)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def grpc_receiver(rejects: int = 0) -> Iterator[Receiver]:
    """An OTLP/gRPC receiver, which claims to have rejected spans as the other does."""
    server = grpc.server(ThreadPoolExecutor(2))
    port = server.add_insecure_port("127.0.0.1:0")
    receiver = Receiver(f"http://127.0.0.1:{port}", rejects)

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Request, context: Any) -> Response:
            return receiver.accept(request)

    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    server.start()
    try:
        yield receiver
    finally:
        server.stop(0).wait(5)


@contextlib.contextmanager
def hanging_server() -> Iterator[str]:
    """The endpoint of a server that accepts connections and then never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def rotel_program() -> Path | None:
    """The collector's program, or None when the wheel is not installed."""
    spec = importlib.util.find_spec("rotel")
    folders = (spec.submodule_search_locations if spec else None) or []
    return next((path for folder in folders if (path := Path(folder, "rotel-agent")).exists()), None)


class RotelEndpoints(NamedTuple):
    """Where rotel listens."""

    grpc: str
    http: str


@contextlib.contextmanager
def rotel(program: Path, receiver: Receiver, protocol: str, folder: Path) -> Iterator[RotelEndpoints]:
    """A running rotel that passes on to ``receiver`` by ``http`` or ``grpc``, and logs to ``folder``."""
    ports = free_port(), free_port()
    options = {
        "otlp-grpc-endpoint": f"127.0.0.1:{ports[0]}",
        "otlp-http-endpoint": f"127.0.0.1:{ports[1]}",
        "exporter": "otlp",
        "otlp-exporter-endpoint": receiver.endpoint,
        "otlp-exporter-protocol": protocol,
        "batch-timeout": "50ms",
        "pid-file": str(folder / "rotel.pid"),
        "log-file": str(folder / "rotel.log"),
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", value)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("ROTEL_", "OTEL_"))}
    with (folder / "rotel.out").open("wb") as output:
        process = subprocess.Popen(
            [program, "start", *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            wait_until(lambda: all(_listens(port) for port in ports) or process.poll() is not None)
            assert process.poll() is None, (folder / "rotel.out").read_text()
            yield RotelEndpoints(*(f"http://127.0.0.1:{port}" for port in ports))
        finally:
            process.terminate()
            process.wait(10)


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return as soon as ``condition`` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def _handler(receiver: Receiver, status: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            right_place = self.path == "/v1/traces"
            answer = Response()
            if right_place and status == 200:
                answer = receiver.accept(Request.FromString(body))
            self._answer(status if right_place else 404, answer.SerializeToString())

        def _answer(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the host's name
            """Say nothing on stderr."""

    return Handler


def _spans(request: Request) -> Iterator[Received]:
    for group in request.resource_spans:
        resource = attributes_of(group.resource.attributes)
        for scoped in group.scope_spans:
            for span in scoped.spans:
                yield Received(span, attributes_of(span.attributes), resource, scoped.scope.name)


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """Attributes as a dict of scalars."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False
