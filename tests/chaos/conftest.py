"""What the tests under hostile conditions share: the same training without telemetry, and a look at what is left.

Each case trains for real. It must come out as the same training without telemetry does, to the last bit; the fault is
told once and counted; and afterwards nothing of ours is left: no thread, no file descriptor, no process.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parent.parent / "integration")
)  # observing.py, outcomes.py, processes.py

import psutil
import pytest
from otlp_receiver import wait_until
from outcomes import Outcome, outcome

from rlhf_otel import serving
from rlhf_otel.sources import profiling_seam

GONE_WITHIN_S = 60.0


@pytest.fixture(scope="session")
def unobserved(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the training of ``outcomes`` comes to without telemetry."""
    return outcome(tmp_path_factory.mktemp("unobserved"))


@pytest.fixture(autouse=True)
def _nothing_is_left(unobserved: Outcome) -> Iterator[None]:
    threads, descriptors, children = set(threading.enumerate()), _descriptors(), _children()
    yield
    wait_until(lambda: serving.address() is None, GONE_WITHIN_S)
    wait_until(lambda: set(threading.enumerate()) <= threads, GONE_WITHIN_S)
    wait_until(lambda: _descriptors() <= descriptors, GONE_WITHIN_S)
    wait_until(lambda: _children() <= children, GONE_WITHIN_S)
    profiling_seam.uninstall()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}
