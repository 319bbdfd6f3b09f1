"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis
import pytest

from rlhf_otel import faults

# No deadline: a slow machine is no defect. In CI the same examples each time.
hypothesis.settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("ours")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine that runs the tests reaches them."""
    for variable in list(os.environ):
        if variable.startswith(("RLHF_OTEL_", "OTEL_")):
            monkeypatch.delenv(variable)


@pytest.fixture(autouse=True)
def _own_faults() -> Iterator[None]:
    """Each test starts without telemetry faults."""
    faults.reset()
    yield
    faults.reset()
