"""The stack as programs of this machine: Prometheus and Alertmanager, with the generated configuration."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from rlhf_otel import generate
from rlhf_otel.demo.servers import HOW_TO_GET_THEM, PROGRAMS, Server, program
from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import RlhfOtelError, ServerError, StackError
from rlhf_otel.generate import alertmanager, prometheus, recording, rules, runbooks
from rlhf_otel.generate.page import Links
from rlhf_otel.generate.paging import NOBODY_IS_TOLD, Paging
from rlhf_otel.servers.prometheus import Prometheus
from rlhf_otel.settings import METRICS_PORT
from rlhf_otel.stack.state import Started, State

DISCOVERED_S: Final = 15.0
"""Prometheus looks for its Alertmanager every 5 s: till then it sends alerts nowhere, and has no target."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be started, and where its data lie."""

    directory: Path
    targets: Sequence[str] | None = None
    """Without them and ``file_sd`` the usual port of this machine."""
    file_sd: Path | None = None
    who: Paging = NOBODY_IS_TOLD
    prometheus_port: int = 9090
    alertmanager_port: int = 9093

    @property
    def registry(self) -> Path:
        """Directory whose targets are scraped: those of runs, or a drill's alone."""
        return self.file_sd or self.directory / "drills"

    @property
    def scraped(self) -> Sequence[str] | None:
        """What is scraped whatever the directory says. A run is in one of both, or it would be scraped twice."""
        return self.targets or (None if self.file_sd else [f"localhost:{METRICS_PORT}"])


def start(options: Options) -> State:
    """Write the configuration, start both and wait until they are ready. Raises StackError; then nothing is left."""
    if not all(program(name) for name in PROGRAMS):
        raise StackError(HOW_TO_GET_THEM.replace("so that the demo runs without them", "nor is Docker"))
    if options.prometheus_port == options.alertmanager_port:
        raise StackError(f"Prometheus and Alertmanager cannot both have port {options.prometheus_port}")
    for name, port in (("prometheus", options.prometheus_port), ("alertmanager", options.alertmanager_port)):
        _require_free(name, port)
    options.who.require_secrets()
    try:
        _write(options)
    except OSError as error:
        raise StackError(f"{options.directory} cannot be written: {error.strerror} (--dir)") from error
    servers: list[Server] = []
    try:
        for name, port, words in (
            ("alertmanager", options.alertmanager_port, _alertmanager_options(options)),
            ("prometheus", options.prometheus_port, _prometheus_options(options)),
        ):
            servers.append(_launch(name, port, words, options.directory))
            servers[-1].wait_ready()
        _await_discovery(Prometheus(servers[-1].url))
        return State(programs=tuple(_started(server) for server in servers), registry=str(options.registry))
    except BaseException as error:
        for server in servers:
            server.stop()
        if isinstance(error, RlhfOtelError):
            raise StackError(str(error)) from error
        raise


def _require_free(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StackError(
                f"port {port} is taken, which {name} was to have: is there another one, of a demo perhaps? "
                f"--{name}-port chooses another port"
            ) from None


def _await_discovery(server: Prometheus) -> None:
    """Until it knows where to send alerts; whoever asks `rlhf-otel doctor` at once would be told that it does not."""
    deadline = time.monotonic() + DISCOVERED_S
    while time.monotonic() < deadline:
        try:
            if server.alertmanagers() and server.targets():
                return
        except ServerError:
            return
        time.sleep(0.1)


def _write(options: Options) -> None:
    timing, directory = Timing(), options.directory
    options.registry.mkdir(parents=True, exist_ok=True)
    links = Links((directory / "runbooks").as_uri(), boards="", traces="")  # there is no Grafana
    content = {
        "rlhf.rules.yaml": rules.rules_file(timing, links),
        "rlhf.recording.yaml": recording.recording_file(timing),
        **{f"runbooks/{name}.md": page for name, page in runbooks.runbooks().items()},
        "alertmanager.yml": alertmanager.config_file(timing, options.who),
        "templates/rlhf.tmpl": alertmanager.template_file(),
        "prometheus.yml": prometheus.config_file(
            timing,
            rule_files=["rlhf.rules.yaml", "rlhf.recording.yaml"],
            targets=options.scraped,
            alertmanagers=[f"localhost:{options.alertmanager_port}"],
            file_sd=[f"{options.registry}/*.json"],
        ),
    }
    generate.write(directory, content)


def _alertmanager_options(options: Options) -> list[str]:
    return [
        f"--config.file={options.directory / 'alertmanager.yml'}",
        f"--storage.path={options.directory / 'alertmanager'}",
        f"--web.external-url=http://localhost:{options.alertmanager_port}",
        "--cluster.listen-address=",
    ]


def _prometheus_options(options: Options) -> list[str]:
    return [
        f"--config.file={options.directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={options.directory / 'prometheus'}",
        "--storage.tsdb.retention.time=30d",
        f"--web.external-url=http://localhost:{options.prometheus_port}",
        "--enable-feature=exemplar-storage",
        # Alertmanager is discovered seconds after the first evaluation: what was lost till then is sent again.
        "--rules.alert.resend-delay=5s",
    ]


def _launch(name: str, port: int, words: Sequence[str], directory: Path) -> Server:
    path = program(name)
    assert path is not None
    place = directory / f"{name}.log"
    with place.open("wb") as log:
        process = subprocess.Popen(
            [path, f"--web.listen-address=127.0.0.1:{port}", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(name, f"http://localhost:{port}", process, place)


def _started(server: Server) -> Started:
    return Started(
        server.name, server.url, server.process.pid, psutil.Process(server.process.pid).create_time()
    )
