"""Metrics by OTLP: the scrape's series again, through a real collector, judged by the generated rules in a real Prometheus."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from metrics_receiver import Sample, metrics_receiver, remote_write
from observing import Scrape, scrape
from otlp_receiver import free_port, hanging_server, rotel, rotel_program, wait_until
from tiny import build_trainer, numbers, variety
from transformers import TrainerCallback
from watching import wait_for, watching

from rlhf_otel import ConfigurationError, TelemetryCallback, faults, serving

STEPS = 12


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    wait_until(lambda: serving.address() is None and not pushing(), 30)


def pushing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("rlhf_otel")]


class ScrapeAtTheEnd(TrainerCallback):
    """The last scrape of a run."""

    found: Scrape

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < state.max_steps:
            return
        wait_until(lambda: scrape()("rlhf_step") == state.global_step, 30)
        self.found = scrape()


def train(folder: Path, *more: TrainerCallback, **arguments: Any) -> Any:
    """A run that pushes every second."""
    callback = TelemetryCallback(metrics_port=0, run_id="pushed", journal="off", push_interval_s=1)
    trainer = build_trainer(folder, [callback, *more], max_steps=STEPS, **arguments)
    trainer.train()
    return trainer


def series(samples: list[Sample]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Values by name and labels, without those of the target."""
    return {
        (it.name, tuple(pair for pair in it.labels if pair[0] not in ("job", "instance"))): it.value
        for it in samples
    }


MOVING = ("rlhf_process_", "rlhf_host_", "rlhf_telemetry_", "rlhf_phase_", "rlhf_run_end", "rlhf_gpu")
"""Families that change between two looks at the same step."""


@pytest.mark.parametrize("protocol", ["http", pytest.param("grpc", marks=pytest.mark.slow)])
def test_what_a_collector_hands_on_is_the_scrape(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = rotel_program()
    assert program is not None
    scraping = ScrapeAtTheEnd()
    with (
        metrics_receiver() as receiver,
        rotel(program, receiver, protocol="http", folder=tmp_path) as collector,
    ):  # type: ignore[arg-type]
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
            getattr(collector, protocol) + ("/v1/metrics" if protocol == "http" else ""),
        )
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf" if protocol == "http" else "grpc")
        train(tmp_path, scraping)
        ended, while_it_runs = "rlhf_run_end_timestamp_seconds", "rlhf_open_phase_seconds"
        wait_until(lambda: bool(receiver.requests) and any(it.name == ended for it in receiver.latest), 30)
        pushed = series(receiver.latest)

    scraped = {
        (name, tuple(sorted((label, value) for label, value in labels.items() if value))): value
        for name, rows in scraping.found.samples.items()
        for labels, value in rows
        if not name.endswith("_created") and name != while_it_runs
    }
    assert {key for key in pushed if key[0] != ended} == set(scraped)
    assert all("run_id" in dict(labels) for _, labels in pushed)
    for key, value in scraped.items():
        if not key[0].startswith(MOVING):
            assert pushed[key] == pytest.approx(value, nan_ok=True), key
    assert faults.total() == 0


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_the_generated_rules_judge_what_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A healthy run is silent, also after its end; one with NaN rewards is caught, by both engines."""
    program = rotel_program()
    assert program is not None
    with (
        watching(
            tmp_path / "server", tmp_path / "targets", "--web.enable-remote-write-receiver"
        ) as prometheus,
        metrics_receiver(partial(remote_write, prometheus.url)) as receiver,
        rotel(program, receiver, protocol="http", folder=tmp_path) as collector,  # type: ignore[arg-type]
    ):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.http)
        monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
        train(tmp_path / "healthy")
        wait_for("the end", lambda: prometheus.query("rlhf_run_end_timestamp_seconds"))
        ended = prometheus.now()
        wait_for("silence", lambda: prometheus.now() > ended + 15)
        assert prometheus.query('rlhf_step{run_id="pushed"} == 12')
        assert prometheus.ever_fired(severity="critical") == set()

        nan = iter([False] * 5 + [True] * 1000)

        def failing(completions: list[str], **_: Any) -> list[float]:
            return [float("nan")] * len(completions) if next(nan) else variety(completions)

        train(tmp_path / "nan", reward_funcs=(failing, numbers))
        wait_for(
            "both engines",
            lambda: (
                {a["labels"]["engine"] for a in prometheus.alerts() if a["labels"]["rule"] == "NonFinite"}
                == {"verdict", "level"}
            ),
        )


def weights(trainer: Any) -> list[float]:
    return [float(value.double().sum()) for value in trainer.model.state_dict().values()]


@pytest.mark.parametrize("trouble", ["nobody", "refuses", "hangs"])
def test_an_endpoint_in_trouble_costs_one_line_and_no_training(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = build_trainer(tmp_path / "plain", max_steps=STEPS)
    plain.train()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with (
        metrics_receiver(status=400) as refusing,
        hanging_server() as hanging,
        caplog.at_level(logging.WARNING),
    ):
        endpoint = {
            "nobody": f"http://127.0.0.1:{free_port()}",
            "refuses": refusing.endpoint,
            "hangs": hanging,
        }[trouble]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        trainer = train(tmp_path / "pushing")
        assert weights(trainer) == weights(plain)
        wait_until(lambda: not pushing(), 30)
    said = [record for record in caplog.records if record.name.startswith(("rlhf_otel", "opentelemetry"))]
    assert len([record for record in said if "pushing metrics" in record.getMessage()]) == 1
    assert not [record for record in said if record.name.startswith("opentelemetry")]
    assert faults.counts()["endpoint"] == 1


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "http/protobuf",
        ),
    ],
)
def test_what_cannot_be_pushed_is_refused_at_once(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=said):
        TelemetryCallback(push_interval_s=15)


def test_nothing_is_pushed_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``opentelemetry-instrument`` sets the exporter for everyone, and an endpoint may be there for traces."""
    with metrics_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", receiver.endpoint)
        monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
        build_trainer(tmp_path, [TelemetryCallback(metrics_port=0, journal="off")], max_steps=2).train()
    assert receiver.requests == []
