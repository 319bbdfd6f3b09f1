"""Checks of the metrics endpoint: its port, who can reach it, and where it is registered."""

from __future__ import annotations

import errno
import socket
from urllib.parse import urlsplit

from rlhf_otel.doctor.finding import Finding, ok, problem, skipped, warning
from rlhf_otel.doctor.machine import can_be_written
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.http import get
from rlhf_otel.servers.http_client import HttpClient
from rlhf_otel.settings import Settings

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def port(settings: Settings, client: HttpClient | None = None) -> Finding:
    """Free, or taken by a run of ours, which ``client`` can ask."""
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
    scheme = "http" if settings.web.context is None else "https"
    try:
        served = "rlhf_process_start_time_seconds" in get(f"{scheme}://{address}", "/metrics", client)
    except ServerError as error:
        if _is_protected(settings):
            return warning("port", f"{address} is taken, and did not let us in: {error}", _CREDENTIALS)
        return problem("port", f"{address} is taken, and does not serve metrics: {error}", _OTHER_PORT)
    if served:
        return ok("port", f"{address} serves a run")
    return problem("port", f"{address} is taken by another program", _OTHER_PORT)


def _is_protected(settings: Settings) -> bool:
    return settings.web.context is not None or bool(settings.web.users or settings.web.tokens)


def protection(settings: Settings) -> Finding:
    """Whether what can be reached from elsewhere is protected."""
    web, wide = settings.web, settings.metrics_host not in LOOPBACK and settings.metrics_port != "off"
    if web.warning:
        return problem("certificate", web.warning, "renew it; a run that is there takes it up by itself")
    known = bool(web.users or web.tokens)
    if wide and known and web.context is None:
        said = "passwords and tokens come in clear text over the network"
        return warning("protection", said, "add tls_server_config to metrics_web_config")
    if wide and not _is_protected(settings):
        said = f"whoever reaches {settings.metrics_host} reads the metrics"
        return warning(
            "protection",
            said,
            "let a firewall or NetworkPolicy admit Prometheus alone, or set metrics_web_config",
        )
    kinds = [
        *(["TLS"] if web.context is not None else []),
        *(["client certificates"] if web.context is not None and web.context.verify_mode else []),
        *(["passwords"] if web.users else []),
        *(["tokens"] if web.tokens else []),
    ]
    return ok("protection", ", ".join(kinds) or "loopback alone")


_CREDENTIALS = (
    "give --http-config FILE, with the tls_config, basic_auth or authorization that Prometheus scrapes with"
)
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
