"""Checks of the metrics endpoint: its port, who can reach it, and where it is registered."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

from rlhf_otel.doctor.finding import Finding, ok, problem, skipped
from rlhf_otel.doctor.machine import can_be_written
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.http import get
from rlhf_otel.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def port(settings: Settings) -> Finding:
    """Free, or taken by a run of ours."""
    if settings.metrics_port in ("off", 0):
        return skipped("port", f"metrics_port is {settings.metrics_port!r}")
    host = "localhost" if settings.metrics_host in ("", "0.0.0.0", "::") else settings.metrics_host
    address = f"{host}:{settings.metrics_port}"
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, int(settings.metrics_port)), family=family):
            return ok("port", f"{address} is free; no run is served there now")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            said = f"{address}: {error.strerror or error}"
            return problem("port", said, "set RLHF_OTEL_METRICS_HOST to an address of this machine")
    try:
        served = "rlhf_process_start_time_seconds" in get(f"http://{address}", "/metrics")
    except ServerError as error:
        return problem("port", f"{address} is taken, and does not serve metrics: {error}", _OTHER_PORT)
    if served:
        return ok("port", f"{address} serves a run")
    return problem("port", f"{address} is taken by another program", _OTHER_PORT)


_OTHER_PORT = "set RLHF_OTEL_METRICS_PORT to a free port, in Prometheus' scrape configuration too"


def reachable(settings: Settings, prometheus_url: str) -> Finding:
    """Whether a Prometheus elsewhere could reach it."""
    remote = urlsplit(prometheus_url).hostname not in LOOPBACK
    if settings.metrics_port == "off":
        return skipped("listening", "nothing is served")
    if remote and settings.metrics_host in LOOPBACK:
        return problem(
            "listening",
            f"on loopback alone ({settings.metrics_host}), and {prometheus_url} is on another machine",
            "set RLHF_OTEL_METRICS_HOST=0.0.0.0 and let a firewall or NetworkPolicy admit Prometheus alone",
        )
    return ok("listening", f"on {settings.metrics_host}")


def registration(settings: Settings) -> Finding:
    """Whether targets can be written for file_sd."""
    if settings.file_sd is None:
        return skipped("file_sd", "not set; targets are listed in Prometheus' configuration")
    if not settings.file_sd.is_dir() or not can_be_written(settings.file_sd):
        return problem(
            "file_sd",
            f"{settings.file_sd} is no directory that can be written",
            "make it, on a disk that Prometheus sees",
        )
    return ok("file_sd", str(settings.file_sd))
