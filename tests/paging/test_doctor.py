"""The doctor finds nothing in a set-up that works, and each thing that is broken in one that does not."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from otlp_receiver import free_port, wait_until
from transformers import TrainerCallback

import rlhf_otel.doctor.machine
from rlhf_otel.cli import commands
from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program
from rlhf_otel.generate import paging
from rlhf_otel.servers.prometheus import Prometheus

needs_servers = pytest.mark.skipif(
    not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
)
WITHIN_S = 60.0


def doctor(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status, and check to its finding."""
    done = CliRunner().invoke(commands, ["doctor", "--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, {found["check"]: found for found in json.loads(done.output)["findings"]}


class Examine(TrainerCallback):
    """Examines the set-up in the middle of training."""

    def __init__(self, ready: Callable[[], object], *arguments: str) -> None:
        self.ready, self.arguments = ready, arguments
        self.status, self.found = -1, dict[str, Any]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            wait_until(self.ready, WITHIN_S)
            self.status, self.found = doctor(*self.arguments)


def start(folder: Path, port: int, who: paging.Paging | None = None) -> tuple[Servers, Receiver]:
    receiver = Receiver(folder / "traces")
    servers = Servers(folder, [f"localhost:{port}"], receiver.start(), replicas=1, who=who)
    servers.start()
    return servers, receiver


@needs_servers
@pytest.mark.servers
def test_nothing_is_wrong_with_a_run_that_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny

    from rlhf_otel import TelemetryCallback

    port = free_port()
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", str(port))
    servers, receiver = start(tmp_path, port)
    try:
        server = Prometheus(servers.prometheus[0].url)
        examine = Examine(
            lambda: server.query("rlhf_step") and server.alertmanagers(),
            *("--prometheus", server.url, "--run-id", "examined"),
        )
        callback = TelemetryCallback(run_id="examined", journal=tmp_path / "journal", linger_s=0)
        tiny.build_trainer(tmp_path, [callback, examine], max_steps=3).train()
    finally:
        servers.stop()
        receiver.stop()
    assert examine.status == 0, examine.found
    said = {check: found["said"] for check, found in examine.found.items()}
    assert said["port"].endswith("serves a run")
    assert said["scraping"] == "1 ranks of examined"
    assert said["rules"].startswith("all ")
    assert said["pages"] == "go to receiver page"
    assert {
        examine.found[check]["level"] for check in ("prometheus", "alertmanager", "clock", "listening")
    } == {"ok"}


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus without our rules and targets, and an Alertmanager without channels."""
    folder = tmp_path_factory.mktemp("deaf")
    servers, receiver = start(folder, free_port(), paging.NOBODY_IS_TOLD)
    (folder / "rlhf.rules.yaml").write_text("groups: []\n")
    servers.prometheus[0].process.send_signal(1)  # SIGHUP: read the configuration again
    server = Prometheus(servers.prometheus[0].url)
    wait_until(lambda: not server.alerting_rules(), WITHIN_S)
    wait_until(server.alertmanagers, WITHIN_S)
    yield server.url
    servers.stop()
    receiver.stop()


@needs_servers
@pytest.mark.servers
def test_what_is_missing_around_a_prometheus_is_named(deaf: str) -> None:
    status, found = doctor("--prometheus", deaf, "--run-id", "nobody")
    assert status == 1
    assert found["scraping"]["said"] == "no series of run nobody"
    assert found["rules"]["level"] == "problem"
    assert "rule_files" in found["rules"]["remedy"]
    assert found["pages"]["level"] == "warning"
    assert "nobody is told" in found["pages"]["said"]
    _, found = doctor("--prometheus", deaf)
    assert found["scraping"]["said"].startswith("no target with port 9464")


def test_a_prometheus_that_is_not_there() -> None:
    address = f"http://localhost:{free_port()}"
    status, found = doctor("--prometheus", address)
    assert status == 1
    assert address in found["prometheus"]["said"]
    assert "rlhf-otel up" in found["prometheus"]["remedy"]


def test_an_endpoint_on_loopback_and_a_prometheus_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_otel.doctor.examination._answers", lambda server: False)
    monkeypatch.setattr("rlhf_otel.doctor.examination.prometheus_findings", lambda *_: iter(()))
    status, found = doctor("--prometheus", "http://prometheus.example.org:9090")
    assert status == 1
    assert "RLHF_OTEL_METRICS_HOST" in found["listening"]["remedy"]
    monkeypatch.setenv("RLHF_OTEL_METRICS_HOST", "0.0.0.0")
    assert doctor("--prometheus", "http://prometheus.example.org:9090")[1]["listening"]["level"] == "ok"


@pytest.fixture
def _no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever listens on this machine."""
    monkeypatch.setattr("rlhf_otel.doctor.examination.DEFAULT_PROMETHEUS", f"http://localhost:{free_port()}")
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", str(free_port()))


@pytest.mark.usefixtures("_no_servers")
def test_without_a_server_the_machine_alone_is_examined() -> None:
    status, found = doctor()
    assert status == 0
    assert found["prometheus"]["level"] == "skipped"
    assert found["trl"]["level"] == "ok"


@pytest.mark.usefixtures("_no_servers")
def test_each_fault_of_a_machine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        taken.listen()
        monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("RLHF_OTEL_FILE_SD", str(tmp_path / "nowhere"))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://localhost:{free_port()}")
        monkeypatch.setitem(rlhf_otel.doctor.machine.OLDEST, "trl", (99, 0))
        monkeypatch.setattr("rlhf_otel.servers.http.TIMEOUT_S", 0.5)
        status, found = doctor()
    assert status == 1
    problems = {check for check, each in found.items() if each["level"] == "problem"}
    assert problems == {"port", "file_sd", "otlp", "trl"}
    assert all(found[check]["remedy"] for check in problems)


@pytest.mark.usefixtures("_no_servers")
def test_impossible_settings_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_STALL_FLOOR_S", "never")
    status, found = doctor()
    assert status == 1
    assert "stall_floor_s" in found["settings"]["said"]
