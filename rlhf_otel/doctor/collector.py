"""The check of whoever is sent traces."""

from __future__ import annotations

import os
import socket
import ssl
import urllib.error
import urllib.request
from typing import Final
from urllib.parse import unquote, urlsplit

from rlhf_otel.doctor.finding import Finding, ok, problem, skipped
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.exporters.otlp_environment import Destination, otlp_destination

CONNECT_S: Final = 3.0
OTLP_TRACES: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
"""Its value is the whole address; that of the variable for all signals lacks the path."""
OTLP_HEADERS: Final = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
OTLP_CERTIFICATE: Final = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")


def otlp() -> Finding:
    """Whether somebody listens where traces are sent."""
    try:
        destination = otlp_destination()
    except ConfigurationError as error:
        return problem("otlp", str(error), "mend the variable that is named")
    if not destination.endpoint:
        return skipped(
            "otlp", f"no traces are sent: {destination.key} is not set, or traces are switched off"
        )
    address = urlsplit(destination.endpoint if "//" in destination.endpoint else f"//{destination.endpoint}")
    grpc = destination.protocol == "grpc"
    port = address.port or (4317 if grpc else {"https": 443}.get(address.scheme, 80))
    try:
        socket.create_connection((address.hostname or "", port), CONNECT_S).close()
    except OSError as error:
        said = f"{destination.endpoint} cannot be reached: {error}"
        return problem("otlp", said, "start a collector there, or mend the variable")
    if grpc:
        return ok("otlp", f"{destination.endpoint} accepts connections")
    return _accepts_traces(destination)


def _accepts_traces(destination: Destination) -> Finding:
    """By sending a request without any span, which a collector accepts."""
    whole = destination.key == OTLP_TRACES
    url = destination.endpoint if whole else f"{destination.endpoint.rstrip('/')}/v1/traces"
    headers = {"Content-Type": "application/x-protobuf", **_headers()}
    request = urllib.request.Request(url, b"", headers)
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_S, context=_authorities(url)):
            return ok("otlp", f"{url} takes traces")
    except urllib.error.HTTPError as error:
        said = f"{url} answers a request of OTLP with HTTP status {error.code}"
        if error.code in (401, 403):
            return problem("otlp", said, "give it its token by OTEL_EXPORTER_OTLP_HEADERS")
        return problem("otlp", said, "is that a collector's address? For OTLP by HTTP its port is 4318")
    except (OSError, ValueError) as error:
        remedy = "4318 is for HTTP; for gRPC (4317) set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        return problem("otlp", f"{url} does not speak OTLP by HTTP: {error}", remedy)


def _headers() -> dict[str, str]:
    given = os.environ.get(OTLP_HEADERS[0]) or os.environ.get(OTLP_HEADERS[1], "")
    pairs = (pair.partition("=") for pair in given.split(","))
    return {name.strip(): unquote(value.strip()) for name, _, value in pairs if name.strip()}


def _authorities(url: str) -> ssl.SSLContext | None:
    """Those that the exporter trusts."""
    if not url.startswith("https:"):
        return None
    file = next((value for name in OTLP_CERTIFICATE if (value := os.environ.get(name))), None)
    return ssl.create_default_context(cafile=file)
