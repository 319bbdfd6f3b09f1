"""What the tests of exporters share: a collector that can fail, and endpoints that serve it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from served import Serve, Steps

from rlhf_otel.exporters.endpoint import Endpoint


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
def serve(steps: Steps) -> Iterator[Serve]:
    """Starts endpoints that are closed after the test."""
    started: list[Endpoint] = []
    registry = CollectorRegistry()
    registry.register(steps)

    def start(
        port: int = 0, health: Callable[[], tuple[bool, str]] = lambda: (True, ""), **settings: Any
    ) -> Endpoint:
        endpoint = Endpoint("localhost", port, registry, health, **settings)
        started.append(endpoint)
        endpoint.start()
        return endpoint

    yield start
    for endpoint in started:
        endpoint.close()
