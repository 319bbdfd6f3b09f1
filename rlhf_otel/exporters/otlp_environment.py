"""What OpenTelemetry's standard variables say about traces and metrics, read without the SDK, which is not even imported."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from rlhf_otel import traces_sampler
from rlhf_otel.errors import ConfigurationError

PROTOCOLS: Final = ("http/protobuf", "grpc")
"""Values of ``OTEL_EXPORTER_OTLP_PROTOCOL`` that Python's SDK has, the specification's default first."""
COMPRESSIONS: Final = ("none", "gzip", "deflate")
"""Values of ``OTEL_EXPORTER_OTLP_COMPRESSION`` that Python's SDK has."""
MAX_PENDING_SPANS: Final = 2048
"""Spans that wait at most, unless ``OTEL_BSP_MAX_QUEUE_SIZE`` says otherwise; about 2 KB each."""


class Destination(NamedTuple):
    """Where traces, or metrics, are to be sent."""

    key: str
    """The variable that names the endpoint."""
    endpoint: str
    """Empty where traces are not wanted."""
    protocol: str = PROTOCOLS[0]
    max_pending: int = MAX_PENDING_SPANS
    note: str = ""
    """What people should know about the choice."""


def otlp_destination() -> Destination:
    """What the variables ask for.

    Raises:
        ConfigurationError: an endpoint is named, traces are wanted, and a variable has an impossible value.
    """
    key, endpoint = _setting("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Destination(key, "")
    if traces_sampler.off():
        return Destination(key, "")
    choice, chosen = _setting("OTEL_TRACES_EXPORTER")
    exporters = {name.strip() for name in (chosen or "otlp").split(",")}
    if "otlp" not in exporters:
        note = f"{choice}={chosen!r}: rlhf_otel exports traces by otlp only, so it exports none"
        return Destination(key, "", note="" if "none" in exporters else note)
    protocol = _one_of(PROTOCOLS, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    _one_of(COMPRESSIONS, "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    _require_seconds("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    _require_url(key, endpoint, protocol)
    return Destination(key, endpoint, protocol, _max_pending())


def otlp_metrics_destination() -> Destination:
    """Where metrics are to be pushed. The variables alone ask for nothing: a setting does.

    Raises:
        ConfigurationError: no endpoint is named, or a variable has an impossible value.
    """
    key, endpoint = _setting("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint:
        raise ConfigurationError(
            "push_interval_s needs OTEL_EXPORTER_OTLP_METRICS_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT, where to push to"
        )
    protocol = _one_of(PROTOCOLS, "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    _one_of(COMPRESSIONS, "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
    _require_seconds("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
    _require_url(key, endpoint, protocol)
    return Destination(key, endpoint, protocol)


def _setting(*keys: str) -> tuple[str, str]:
    """The first of the variables that is set and not empty, with its value."""
    for key in keys:
        if value := os.environ.get(key, "").strip():
            return key, value
    return keys[-1], ""


def _one_of(allowed: Sequence[str], *keys: str) -> str:
    """The value of the first variable that is set; unset means the first that is allowed."""
    key, value = _setting(*keys)
    if value and value not in allowed:
        raise ConfigurationError(f"{key}={value!r}: allowed are {', '.join(allowed)}")
    return value or allowed[0]


def _require_seconds(*keys: str) -> None:
    key, value = _setting(*keys)
    try:
        possible = not value or 0 < float(value) < math.inf
    except ValueError:
        possible = False
    if not possible:
        raise ConfigurationError(f"{key}={value!r}: allowed is a number of seconds above 0")


def _require_url(key: str, endpoint: str, protocol: str) -> None:
    """HTTP needs a scheme, else every export would fail; gRPC also takes ``host:port`` and ``unix:``."""
    try:
        parts = urlsplit(endpoint)
    except ValueError as error:
        raise ConfigurationError(f"{key}={endpoint!r}: {error}") from None
    if protocol != "grpc" and (parts.scheme not in ("http", "https") or not parts.netloc):
        allowed = "http://HOST:PORT or https://HOST:PORT"
        raise ConfigurationError(f"{key}={endpoint!r}: for {protocol} allowed is {allowed}")


def _max_pending() -> int:
    key, value = _setting("OTEL_BSP_MAX_QUEUE_SIZE")
    if value and not (value.isdecimal() and int(value)):
        raise ConfigurationError(f"{key}={value!r}: allowed is an integer above 0")
    return int(value or MAX_PENDING_SPANS)
