"""The stack as programs of this machine: Prometheus and Alertmanager, with the generated configuration."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from rlhf_otel import generate
from rlhf_otel.demo.servers import HOW_TO_GET_THEM, PROGRAMS, Server, program
from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import RlhfOtelError, StackError
from rlhf_otel.generate import alertmanager, prometheus, recording, rules, runbooks
from rlhf_otel.generate.page import Links
from rlhf_otel.generate.paging import NOBODY_IS_TOLD, Paging
from rlhf_otel.stack.state import Started, State


@dataclass(frozen=True, slots=True)
class Options:
    """What is to be started, and where its data lie."""

    directory: Path
    targets: Sequence[str]
    file_sd: Path | None = None
    who: Paging = NOBODY_IS_TOLD
    prometheus_port: int = 9090
    alertmanager_port: int = 9093


def start(options: Options) -> State:
    """Write the configuration, start both and wait until they are ready. Raises StackError; then nothing is left."""
    if not all(program(name) for name in PROGRAMS):
        raise StackError(HOW_TO_GET_THEM.replace("so that the demo runs without them", "nor is Docker"))
    for port in (options.prometheus_port, options.alertmanager_port):
        _require_free(port)
    _write(options)
    servers: list[Server] = []
    try:
        for name, port, words in (
            ("alertmanager", options.alertmanager_port, _alertmanager_options(options)),
            ("prometheus", options.prometheus_port, _prometheus_options(options)),
        ):
            servers.append(_launch(name, port, words, options.directory))
            servers[-1].wait_ready()
        return State(programs=tuple(_started(server) for server in servers))
    except BaseException as error:
        for server in servers:
            server.stop()
        if isinstance(error, RlhfOtelError):
            raise StackError(f"{error} ({options.directory})") from error
        raise


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StackError(
                f"port {port} is taken: is another Prometheus or Alertmanager running? --prometheus-port and "
                "--alertmanager-port choose others"
            ) from None


def _write(options: Options) -> None:
    timing, directory = Timing(), options.directory
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
            targets=options.targets,
            alertmanagers=[f"localhost:{options.alertmanager_port}"],
            file_sd=[f"{options.file_sd}/*.json"] if options.file_sd is not None else (),
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
        "--enable-feature=exemplar-storage",
        # Alertmanager is discovered seconds after the first evaluation: what was lost till then is sent again.
        "--rules.alert.resend-delay=5s",
    ]


def _launch(name: str, port: int, words: Sequence[str], directory: Path) -> Server:
    path = program(name)
    assert path is not None
    with (directory / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            [path, f"--web.listen-address=127.0.0.1:{port}", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(name, f"http://localhost:{port}", process)


def _started(server: Server) -> Started:
    return Started(
        server.name, server.url, server.process.pid, psutil.Process(server.process.pid).create_time()
    )
