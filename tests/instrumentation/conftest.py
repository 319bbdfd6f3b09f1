"""What these tests share: nothing stays patched, no thread and no port is left behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from otlp_receiver import wait_until

import rlhf_otel
from rlhf_otel import serving

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))  # observing.py

GONE_WITHIN_S = 30.0


def our_threads() -> list[str]:
    """Names of this package's threads."""
    return [t.name for t in threading.enumerate() if t.name.startswith(("rlhf_otel", "rlhf-otel"))]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    rlhf_otel.uninstrument()
    wait_until(lambda: serving.address() is None and not our_threads(), GONE_WITHIN_S)
