"""Where pushed metrics arrive, and how OpenTelemetry maps them to Prometheus.

The mapping is that of the specification ("Prometheus and OpenMetrics Compatibility") and of what Prometheus' own
OTLP receiver does by default: a unit is appended unless the name has it, ``_total`` to monotonic sums, attributes of a
data point are labels, the service's name and instance are ``job`` and ``instance``. Prometheus 2.42 has no
such receiver, so the samples go on by remote write.
"""

from __future__ import annotations

import contextlib
import gzip
import struct
import threading
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from otlp_receiver import attributes_of

UNITS = {"s": "seconds", "By": "bytes", "Cel": "celsius", "W": "watts", "Hz": "hertz"}

Labels = tuple[tuple[str, str], ...]


class Sample(NamedTuple):
    """A sample in Prometheus' terms."""

    name: str
    labels: Labels
    value: float
    time_ms: int


class MetricsReceiver:
    """Keeps what arrives at ``endpoint``, and hands it on."""

    def __init__(self, endpoint: str, hand_on: Callable[[list[Sample]], object] | None) -> None:
        self.endpoint = endpoint
        self.requests: list[ExportMetricsServiceRequest] = []
        self._hand_on = hand_on

    def accept(self, request: ExportMetricsServiceRequest) -> None:
        """Take a request in."""
        self.requests.append(request)
        if self._hand_on is not None:
            self._hand_on(list(samples_of(request)))

    @property
    def latest(self) -> list[Sample]:
        """What the last request said."""
        return list(samples_of(self.requests[-1]))


@contextlib.contextmanager
def metrics_receiver(
    hand_on: Callable[[list[Sample]], object] | None = None, status: int = 200
) -> Iterator[MetricsReceiver]:
    """An OTLP/HTTP receiver for metrics; with another ``status`` it refuses everything."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    receiver = MetricsReceiver(f"http://127.0.0.1:{server.server_port}", hand_on)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            if status == 200 and self.path == "/v1/metrics":
                receiver.accept(ExportMetricsServiceRequest.FromString(body))
            answer = ExportMetricsServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, the host's name
            """Say nothing on stderr."""

    server.RequestHandlerClass = Handler
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def samples_of(request: ExportMetricsServiceRequest) -> Iterator[Sample]:
    """Prometheus' samples of a request."""
    for group in request.resource_metrics:
        resource = attributes_of(group.resource.attributes)
        target = {"job": str(resource["service.name"]), "instance": str(resource["service.instance.id"])}
        for scoped in group.scope_metrics:
            for metric in scoped.metrics:
                yield from _samples(metric, target)


def prometheus_name(name: str, unit: str, gauge: bool, monotonic: bool) -> str:
    """The name that the mapping makes of a metric's name and unit."""
    parts = name.split("_")
    unit = UNITS.get(unit, unit)
    if unit and unit != "1" and unit not in parts:
        parts.append(unit)
    if monotonic:
        parts = [part for part in parts if part != "total"] + ["total"]
    if unit == "1" and gauge:
        parts = [part for part in parts if part != "ratio"] + ["ratio"]
    return "_".join(parts)


def _samples(metric: Any, target: dict[str, str]) -> Iterator[Sample]:
    kind = metric.WhichOneof("data")
    data = getattr(metric, kind)
    name = prometheus_name(metric.name, metric.unit, kind == "gauge", kind == "sum" and data.is_monotonic)
    for point in data.data_points:
        labels = {**target, **{key: str(value) for key, value in attributes_of(point.attributes).items()}}
        time_ms = point.time_unix_nano // 1_000_000
        if kind != "histogram":
            yield Sample(name, _sorted(labels), point.as_double, time_ms)
            continue
        total = 0
        for bound, count in zip([*point.explicit_bounds, float("inf")], point.bucket_counts, strict=True):
            total += count
            le = "+Inf" if bound == float("inf") else repr(bound)
            yield Sample(f"{name}_bucket", _sorted({**labels, "le": le}), total, time_ms)
        yield Sample(f"{name}_sum", _sorted(labels), point.sum, time_ms)
        yield Sample(f"{name}_count", _sorted(labels), point.count, time_ms)


def _sorted(labels: dict[str, str]) -> Labels:
    return tuple(sorted((name, value) for name, value in labels.items() if value))


def remote_write(url: str, samples: list[Sample]) -> None:
    """Write samples to a Prometheus that receives."""
    series = b"".join(_field(1, _time_series(sample)) for sample in samples)
    request = urllib.request.Request(f"{url}/api/v1/write", _snappy(series), method="POST")
    request.add_header("Content-Encoding", "snappy")
    request.add_header("Content-Type", "application/x-protobuf")
    request.add_header("X-Prometheus-Remote-Write-Version", "0.1.0")
    urllib.request.urlopen(request, timeout=30).close()


def _time_series(sample: Sample) -> bytes:
    labels = sorted([("__name__", sample.name), *sample.labels])
    pairs = (_field(1, name.encode()) + _field(2, value.encode()) for name, value in labels)
    value = b"\x09" + struct.pack("<d", sample.value) + b"\x10" + _varint(sample.time_ms)
    return b"".join(_field(1, pair) for pair in pairs) + _field(2, value)


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited field of protobuf."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _snappy(content: bytes) -> bytes:
    """Snappy's block format, with nothing compressed: literals of up to 64 KiB."""
    chunks = (content[start : start + 65536] for start in range(0, len(content), 65536))
    literals = (b"\xf4" + struct.pack("<H", len(chunk) - 1) + chunk for chunk in chunks)
    return _varint(len(content)) + b"".join(literals)
