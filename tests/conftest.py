"""What all tests share."""

from __future__ import annotations

import os
import signal
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


# Who was started in the background, or by nohup, ignores these, and so would every process of a test.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

IN_CI = os.environ.get("CI") in ("true", "1")
# Their tests start trainings, servers and ranks as processes of their own.
OF_REAL_PROCESSES = {
    "actions", "chaos", "checkpoints", "demo", "instrumentation", "integration", "protection", "push", "ranks", "rules",
    "trainers",
}  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In CI a test of real processes has a second try: the machine is shared, and may starve one of them.

    pytest lists what needed it as RERUN; what fails twice fails.
    """
    for item in items:
        if IN_CI and OF_REAL_PROCESSES.intersection(item.path.parts):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    """In CI a program that is missing is a failure: else nobody would see that its tests run no more."""
    report: pytest.TestReport = yield
    if IN_CI and report.skipped and item.get_closest_marker("servers") is not None:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"no test of a server is skipped in CI: {reason}"
    return report


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
