"""All checks, in the order in which they build on each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rlhf_otel.doctor import collector, endpoint, machine
from rlhf_otel.doctor.finding import Finding, skipped
from rlhf_otel.doctor.watching import alertmanager_findings, prometheus_findings
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.http_client import HttpClient
from rlhf_otel.servers.prometheus import Prometheus

DEFAULT_PROMETHEUS: Final = "http://localhost:9090"


class Question(NamedTuple):
    """What is to be examined. Without an address, a Prometheus at the usual place is examined where there is one."""

    config: Path | None = None
    prometheus: str | None = None
    alertmanager: str | None = None
    run_id: str | None = None
    client: HttpClient | None = None
    """How to ask the metrics endpoint, where it wants certificates or credentials."""


def examine(question: Question) -> Iterator[Finding]:
    """Check after check."""
    settings, finding = machine.settings_of(question.config)
    yield finding
    yield from machine.versions()
    yield machine.kernel()
    yield machine.gpus()
    yield collector.otlp()
    if settings is not None:
        journal = settings.journal if isinstance(settings.journal, Path) else Path()
        yield machine.disk(journal)
        yield endpoint.port(settings, question.client)
        yield endpoint.protection(settings)
        yield endpoint.registration(settings)
        yield endpoint.reachable(settings, question.prometheus or DEFAULT_PROMETHEUS)
    port = settings.metrics_port if settings is not None and isinstance(settings.metrics_port, int) else None
    yield from _servers(question, port)


def _servers(question: Question, port: int | None) -> Iterator[Finding]:
    server = Prometheus(question.prometheus or DEFAULT_PROMETHEUS)
    if question.prometheus is None and not _answers(server):
        yield skipped(
            "prometheus", f"none at {server.url}; give its address (--prometheus), or `rlhf-otel up`"
        )
        return
    yield from prometheus_findings(server, question.run_id, port)
    if _answers(server) or question.alertmanager:
        yield from alertmanager_findings(server, question.alertmanager)


def _answers(server: Prometheus) -> bool:
    try:
        server.time()
    except ServerError:
        return False
    return True
