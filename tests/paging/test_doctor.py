"""The doctor finds nothing in a set-up that works, and each thing that is broken in one that does not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from otlp_receiver import free_port, wait_until
from transformers import TrainerCallback

import rlhf_otel.checkpoints.kernel
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
    assert said["scraping"] == "1 rank of examined"
    assert said["rules"].startswith("all ")
    assert said["recording rules"].startswith("all ")
    assert said["exemplars"] == "stored"
    assert said["pages"] == "go to receiver page"
    assert {
        examine.found[check]["level"] for check in ("prometheus", "alertmanager", "clock", "listening")
    } == {"ok"}


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus without our rules and targets, and an Alertmanager without channels."""
    folder = tmp_path_factory.mktemp("deaf")
    servers, receiver = start(folder, free_port(), paging.NOBODY_IS_TOLD)
    for kind in ("rules", "recording"):
        (folder / f"rlhf.{kind}.yaml").write_text("groups: []\n")
    servers.prometheus[0].process.send_signal(1)  # SIGHUP: read the configuration again
    server = Prometheus(servers.prometheus[0].url)
    wait_until(lambda: not server.alerting_rules(), WITHIN_S)
    wait_until(server.alertmanagers, WITHIN_S)
    yield server.url
    servers.stop()
    receiver.stop()


@needs_servers
@pytest.mark.servers
def test_what_is_missing_around_a_prometheus_is_named(deaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    status, found = doctor("--prometheus", deaf, "--run-id", "nobody")
    assert status == 1
    assert found["scraping"]["said"] == "no series of run nobody"
    for check in ("rules", "recording rules"):
        assert found[check]["level"] == "problem"
        assert "rule_files" in found[check]["remedy"]
    assert found["pages"]["level"] == "warning"
    assert "nobody is told" in found["pages"]["said"]
    _, found = doctor("--prometheus", deaf)
    assert found["scraping"]["said"].startswith("no target with port 9464")
    monkeypatch.setattr("rlhf_otel.doctor.watching.time.time", lambda: 0.0)
    assert "NTP" in doctor("--prometheus", deaf)[1]["clock"]["remedy"]


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


class Answer(BaseHTTPRequestHandler):
    """Of a server that is no collector."""

    def do_POST(self) -> None:
        self.send_error(self.server.status)  # type: ignore[attr-defined]

    do_GET = do_POST  # noqa: N815 - http.server looks for methods of these names

    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def stranger(status: int) -> Iterator[str]:
    """A server that answers everything with ``status``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.status = status  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.usefixtures("_no_servers")
@pytest.mark.parametrize(
    ("status", "remedy"), [(404, "its port is 4318"), (401, "OTEL_EXPORTER_OTLP_HEADERS")]
)
def test_an_open_port_is_no_collector(status: int, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with stranger(status) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        found = doctor()[1]["otlp"]
    assert (found["level"], found["said"]) == (
        "problem",
        f"{url}/v1/traces answers a request of OTLP with HTTP status {status}",
    )
    assert remedy in found["remedy"]


@pytest.mark.usefixtures("_no_servers")
def test_a_collector_takes_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "traces")
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.start())
        assert doctor()[1]["otlp"]["said"].endswith("takes traces")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon")
        assert "carrier pigeon" in doctor()[1]["otlp"]["said"]
    finally:
        receiver.stop()


def test_a_server_that_is_no_prometheus_is_named_once() -> None:
    with stranger(404) as url:
        status, found = doctor("--prometheus", url.removeprefix("http://"), "--alertmanager", url)
    assert status == 1
    assert found["listening"]["level"] == "ok"  # localhost, though no scheme was given
    assert "HTTP status 404" in found["prometheus"]["said"]
    assert "HTTP status 404" in found["alertmanager"]["said"]
    assert "alerting" not in found, "that it sends alerts nowhere is not known"


@pytest.mark.usefixtures("_no_servers")
@pytest.mark.parametrize(
    ("variable", "value", "check", "said"),
    [
        ("RLHF_OTEL_METRICS_HOST", "192.0.2.1", "port", "192.0.2.1:"),
        ("RLHF_OTEL_METRICS_HOST", "nowhere.invalid", "port", "nowhere.invalid:"),
        ("RLHF_OTEL_JOURNAL", "/proc/journal", "disk", "/proc cannot be written"),
        ("RLHF_OTEL_FILE_SD", "/proc", "file_sd", "/proc is no directory that can be written"),
    ],
)
def test_a_place_that_cannot_be_used_is_a_problem(
    variable: str, value: str, check: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root, too, whom permissions do not stop."""
    monkeypatch.setenv(variable, value)
    status, found = doctor()
    assert status == 1
    assert found[check]["level"] == "problem"
    assert said in found[check]["said"]
    assert found[check]["remedy"]


@pytest.mark.usefixtures("_no_servers")
def test_a_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf_otel.doctor.machine.DISK_GIB", 1e9)
    status, found = doctor()
    assert status == 0
    assert found["disk"]["level"] == "warning"


@pytest.mark.usefixtures("_no_servers")
def test_impossible_settings_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_STALL_FLOOR_S", "never")
    status, found = doctor()
    assert status == 1
    assert "stall_floor_s" in found["settings"]["said"]


@pytest.mark.usefixtures("_no_servers")
@pytest.mark.parametrize(("bf16", "said"), [(None, "by numpy"), (len, "by the native kernel")])
def test_it_says_how_checkpoints_are_measured(
    bf16: Callable[..., Any] | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rlhf_otel.checkpoints.kernel, "bf16", bf16)
    assert said in doctor()[1]["checkpoints"]["said"]
