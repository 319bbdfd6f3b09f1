"""What a drill lets Prometheus scrape: one series, in an endpoint of its own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.errors import DrillError


class Marked(NamedTuple):
    """The test anomaly."""

    run_id: str
    severity: str
    team: str

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the alert that routes may read."""
        return {"alertname": RULE_BY_NAME["Drill"].alert, **self._own}

    @property
    def _own(self) -> dict[str, str]:
        return {"run_id": self.run_id, "rule": "Drill", "severity": self.severity, "team": self.team}

    def exposition(self) -> str:
        """In Prometheus' text format."""
        text = ",".join(f"{name}={json.dumps(value)}" for name, value in self._own.items() if value)
        return f"# TYPE rlhf_anomaly_active gauge\nrlhf_anomaly_active{{{text}}} 1\n"


@contextmanager
def exposed(marked: Marked, host: str, port: int, file_sd: Path | None) -> Iterator[str]:
    """Serve it while the context lasts; yields ``host:port``. With ``file_sd`` it is registered in that directory.
    Raises DrillError."""
    body = marked.exposition().encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Nothing: the terminal is for the report."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise DrillError(
            f"cannot listen on {host}:{port} ({error.strerror}). Where a training process has that port, give the "
            "drill another one that Prometheus scrapes too (--port), or a directory that Prometheus watches (--file-sd)"
        ) from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="drill", daemon=True).start()
    target = f"{host}:{server.server_port}"
    entry = file_sd / f"{marked.run_id}.json" if file_sd is not None else None
    try:
        if entry is not None:
            _register(entry, target, marked)
        yield target
    finally:
        if entry is not None:
            entry.unlink(missing_ok=True)
        server.shutdown()
        server.server_close()


def _register(entry: Path, target: str, marked: Marked) -> None:
    labels = {"run_id": marked.run_id, "rank": "0", "team": marked.team}
    partial = entry.with_suffix(".partial")
    try:
        partial.write_text(json.dumps([{"targets": [target], "labels": labels}]), encoding="utf-8")
        partial.replace(entry)
    except OSError as error:
        raise DrillError(f"{entry} cannot be written: {error.strerror}") from None
