"""What the integration tests share: a strict mode for healthy runs, a check that nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from otlp_receiver import wait_until
from outcomes import Outcome, outcome
from processes import Nursery

from rlhf_otel import faults, serving
from rlhf_otel.sources import profiling_seam

GONE_WITHIN_S = 60.0


def our_threads() -> list[str]:
    """Names of this package's threads."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("rlhf_otel", "rlhf-otel"))]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Whatever a test did to its run, neither a thread nor a port of ours outlives it."""
    yield
    wait_until(lambda: serving.address() is None and not our_threads(), GONE_WITHIN_S)
    profiling_seam.uninstall()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where training processes come from."""
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def unobserved(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the training of ``outcomes`` comes to without telemetry."""
    return outcome(tmp_path_factory.mktemp("unobserved"))


@pytest.fixture
def strict() -> Iterator[None]:
    """For healthy runs: a fault on the training thread is raised, and none may have happened on another."""
    with faults.raise_faults():
        yield
    assert faults.total() == 0, {place: count for place, count in faults.counts().items() if count}
