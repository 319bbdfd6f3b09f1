"""Endpoints that are protected, and certificates for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import OPENSSL, Authority
from prometheus_client import CollectorRegistry, Gauge
from web_configurations import Serve

from rlhf_otel.exporters.endpoint import Endpoint
from rlhf_otel.exporters.protection import Protection
from rlhf_otel.web_config import load


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca), certificates of it (server, client, guest, renewed, expired), and one of another."""
    if OPENSSL is None:
        pytest.skip("the program openssl is not installed")
    folder = tmp_path_factory.mktemp("certificates")
    authority, other = Authority(folder).make(), Authority(folder, "other-ca").make()
    for name, sans, days in (
        ("server", "DNS:localhost,IP:127.0.0.1", 30),
        ("renewed", "DNS:localhost,IP:127.0.0.1", 60),
        ("expired", "DNS:localhost", -1),
        ("client", "DNS:prometheus.example", 30),
        ("guest", "DNS:guest.example", 30),
    ):
        authority.sign(name, sans, days)
    other.sign("stranger", "DNS:prometheus.example")
    authority.lock("server", "locked")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, for one test."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts an endpoint with a web configuration; it is closed after the test."""
    started: list[Endpoint] = []

    def start(
        text: str = "", host: str = "localhost", hosts: tuple[str, ...] = (), **settings: Any
    ) -> Endpoint:
        path = tmp_path / (f"web-{len(started)}.yaml" if started else "web.yaml")
        path.write_text(text)
        registry = CollectorRegistry()
        Gauge("test_steps", "Steps.", registry=registry).set(7)
        clock = settings.pop("clock", None)
        protection = Protection(host, hosts, load(path), path, *([clock] if clock else []))
        endpoint = Endpoint(host, 0, registry, lambda: (True, ""), protection=protection, **settings)
        started.append(endpoint)
        assert endpoint.start() is not None
        return endpoint

    yield start
    for endpoint in started:
        endpoint.close()
