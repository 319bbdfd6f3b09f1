"""Where the demo's pages and traces arrive: Alertmanager's webhook, and OTLP over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MAX_BODY: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Notification:
    """What Alertmanager sent to one of its receivers."""

    receiver: str
    time_s: float
    body: dict[str, Any]

    @property
    def firing(self) -> list[dict[str, Any]]:
        """Alerts in it that fire."""
        return [alert for alert in self.body.get("alerts", ()) if alert.get("status") == "firing"]


@dataclass(slots=True)
class Receiver:
    """A local HTTP server that keeps notifications in memory and appends spans to a file as OTLP JSON lines."""

    traces: Path
    notifications: list[Notification] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)
    _server: ThreadingHTTPServer | None = None

    def start(self) -> str:
        """Listen on a free loopback port; returns the base URL."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = min(int(self.headers.get("Content-Length", 0)), MAX_BODY)
                body = self.rfile.read(length)
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.accept(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                """Nothing: the demo's terminal is for the run."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, name="demo-receiver", daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def accept(self, path: str, body: bytes) -> None:
        """Take one request."""
        if path == "/v1/traces":
            self._take_spans(body)
            return
        with contextlib.suppress(ValueError):
            self.notifications.append(Notification(path.strip("/"), time.time(), json.loads(body)))

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _take_spans(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.traces.open("a", encoding="utf-8") as file:
            file.write(json.dumps(MessageToDict(request)) + "\n")
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_span(span) for span in scope.spans]


def _span(span: Any) -> dict[str, Any]:
    return {
        "name": span.name,
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "start_s": span.start_time_unix_nano / 1e9,
        "duration_s": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        "attributes": {item.key: _value(item.value) for item in span.attributes},
        "events": [
            {"name": event.name, "attributes": {item.key: _value(item.value) for item in event.attributes}}
            for event in span.events
        ],
    }


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
