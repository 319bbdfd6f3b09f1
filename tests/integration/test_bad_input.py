"""What a training meets in real life: it comes out the same to the last bit, and the fault is told once and counted."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import torch
from observing import ScrapeEachStep, journal, once_per_fault, scrape
from otlp_receiver import free_port, hanging_server, wait_until
from outcomes import STEPS, Outcome, outcome
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback, faults
from rlhf_otel.catalogue.metrics import MAX_TRAINER_METRICS
from rlhf_otel.exporters import journal as journal_module
from rlhf_otel.sources.gpu import GpuReader


@pytest.fixture(autouse=True)
def _no_descriptor_is_left() -> Iterator[None]:
    before = _descriptors()
    yield
    wait_until(lambda: _descriptors() <= before, 30)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class Awaiting(TrainerCallback):
    """Keeps the last step from ending before something has happened."""

    def __init__(self, condition: Any) -> None:
        self.condition = condition

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == STEPS - 1:
            wait_until(self.condition, 60)


# --- log dicts


class Unreadable:
    """No number, whatever is tried."""

    def __float__(self) -> float:
        raise OverflowError("no")


ODD: dict[Any, Any] = {
    "none": None,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "text": "seven",
    "truth": True,
    "tensor": torch.tensor(1.5),
    "vector": torch.tensor([1.0, 2.0]),
    "half": torch.tensor(0.5, dtype=torch.bfloat16),
    "nested": {"loss": 1.0, "deeper": {"x": [1, 2]}},
    "list": [1.0, 2.0],
    "huge": 10**400,
    "decimal": Decimal("0.1"),
    "unreadable": Unreadable(),
    "größe/ß 大": 1.0,
    'quote"and\\slash': 2.0,
    "new\nline": 3.0,
    "half of a pair \ud800": 4.0,
    "": 5.0,
    7: 7.0,
    ("a", 1): 8.0,
    "eval_": 9.0,
    "rewards//mean": 10.0,
}


class LogsOddly(TrainerCallback):
    """A callback before telemetry's that adds to what was logged, as users' callbacks do."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs.update(ODD)
        logs.update({f"key/{number}": float(number) for number in range(5000)})


def test_odd_log_dicts(unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    observed = outcome(tmp_path, [LogsOddly(), telemetry, scraping])

    assert _values(observed) == _values(unobserved)
    last = scraping.scrapes[STEPS]
    shown = last.by("key", "rlhf_trainer_metric")
    assert len(shown) == MAX_TRAINER_METRICS, "capped"
    assert last("rlhf_dropped_series_total", label="key") > 4000, "and counted"
    assert shown["größe/ß 大"] == 1.0
    assert shown["tensor"] == 1.5
    assert {"none", "text", "truth", "vector", "nested", "list", "huge"}.isdisjoint(shown)
    assert last("rlhf_reward_mean") > 0
    assert not last.duplicates()
    assert len(journal(tmp_path / "journal", "step")) == STEPS
    assert once_per_fault(caplog) == {}


def _values(result: Outcome) -> Outcome:
    """Without the history, into which the odd keys went."""
    return result._replace(history=[])


# --- the endpoint


def test_a_port_that_is_taken(unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = other.getsockname()[1]
        addresses: list[float] = []

        class Look(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                addresses.append(scrape()("rlhf_step"))

        observed = outcome(tmp_path, [TelemetryCallback(metrics_port=port), Look()])
    assert observed == unobserved
    assert len(addresses) == STEPS
    assert sum(f"port {port} is taken" in record.getMessage() for record in caplog.records) == 1
    assert faults.counts()["endpoint"] == 1


def test_an_address_that_is_not_ours(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    telemetry = TelemetryCallback(
        metrics_host="192.0.2.7", metrics_port=free_port(), journal=tmp_path / "journal"
    )
    assert outcome(tmp_path, [telemetry]) == unobserved
    assert list(once_per_fault(caplog).values()) == [1]
    assert faults.counts()["endpoint"] == 1
    assert len(journal(tmp_path / "journal", "step")) == STEPS


# --- the journal


def test_a_journal_directory_that_cannot_be(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    scraping = ScrapeEachStep()
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "file" / "journal")
    assert outcome(tmp_path, [telemetry, scraping]) == unobserved
    check_each_file_told_once(caplog)
    last = scraping.scrapes[STEPS]
    assert last("rlhf_telemetry_faults_total", place="journal") >= 1
    assert last("rlhf_telemetry_dropped_total", exporter="journal") >= STEPS


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of 16 KB in ``folder``; False where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            _fill_after(monkeypatch, 3)
        telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "disk" / "journal")
        assert outcome(tmp_path, [telemetry]) == unobserved
        assert telemetry.run is not None
        counts = telemetry.run.view().telemetry
        assert counts.dropped["journal"] > 0
        records = journal(tmp_path / "disk" / "journal")
        assert records[0]["type"] == "run", "what was written before is whole"
    check_each_file_told_once(caplog)


def check_each_file_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The journal, and the file of traces beside it, which has the same disk."""
    told = once_per_fault(caplog)
    assert told["writing the journal"] == 1
    assert set(told.values()) == {1}
    assert all("journal" in doing or "trace file" in doing for doing in told)


def _fill_after(monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    left = iter(range(writes))
    put = journal_module.JournalWriter._put

    def full(self: Any, line: bytes) -> None:
        if next(left, None) is None:
            raise OSError(28, os.strerror(28))
        put(self, line)

    monkeypatch.setattr(journal_module.JournalWriter, "_put", full)


# --- traces


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("fault", ["unreachable", "hanging"])
def test_an_endpoint_for_traces_that_does_not_answer(
    fault: str,
    protocol: str,
    unobserved: Outcome,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        hanging = stack.enter_context(hanging_server())
        endpoint = hanging if fault == "hanging" else f"http://127.0.0.1:{free_port()}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        telemetry = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal", trace_one_in=1)
        with caplog.at_level(logging.WARNING):
            assert outcome(tmp_path, [telemetry]) == unobserved
        assert telemetry.run is not None
        assert telemetry.run.view().telemetry.dropped["traces"] > STEPS
    assert [count for doing, count in once_per_fault(caplog).items() if "exporting spans" in doing] == [1]
    assert len(once_per_fault(caplog)) == 1
    assert faults.counts()["traces"] == 1
    assert len(journal(tmp_path / "journal", "step")) == STEPS


# --- the machine


def test_nvml_that_fails_midway(
    unobserved: Outcome, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reads: list[int] = []

    def read(self: GpuReader) -> tuple[()]:
        reads.append(len(reads))
        if len(reads) > 1:
            raise RuntimeError("GPU is lost")
        return ()

    monkeypatch.setattr(GpuReader, "read", read)
    telemetry = TelemetryCallback(metrics_port="off", system_interval_s=0.5)
    assert outcome(tmp_path, [telemetry, Awaiting(lambda: len(reads) > 2)]) == unobserved
    assert once_per_fault(caplog) == {"reading the GPU through NVML": 1}
    assert faults.counts()["system"] >= 2
    assert telemetry.run is not None
    assert telemetry.run.view().system.host is not None, "the host is read all the same"


def test_two_trainers_one_after_the_other(unobserved: Outcome, tmp_path: Path) -> None:
    """Also with one callback for both, and while the first one's end is still exposed."""
    telemetry = TelemetryCallback(metrics_port=0, journal=tmp_path / "journal")
    first = outcome(tmp_path / "first", [telemetry])
    second = outcome(tmp_path / "second", [telemetry])
    assert first == second == unobserved
    ends = journal(tmp_path / "journal", "end")
    assert [(end["outcome"], end["step"]) for end in ends] == [("finished", STEPS)] * 2


def test_a_client_that_keeps_asking_does_not_matter(unobserved: Outcome, tmp_path: Path) -> None:
    """Somebody's curl, as fast as it can."""
    done = threading.Event()
    asked = 0

    def ask() -> None:
        nonlocal asked
        while not done.is_set():
            with contextlib.suppress(AssertionError, OSError, HTTPException):  # the endpoint comes and goes
                scrape()
                asked += 1
            time.sleep(0.001)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        observed = outcome(tmp_path, [TelemetryCallback(metrics_port=0), Awaiting(lambda: asked > 5)])
    finally:
        done.set()
        thread.join()
    assert observed == unobserved
