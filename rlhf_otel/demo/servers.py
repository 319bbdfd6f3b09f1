"""Prometheus and Alertmanager as the demo starts them: the real programs, with the generated configuration."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import psutil

from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import DemoError
from rlhf_otel.generate import alertmanager, prometheus, recording, rules
from rlhf_otel.generate.paging import Paging, local

PROGRAMS: Final = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
"""Debian's names first."""
READY_S: Final = 20.0
ATTEMPTS: Final = 5
"""With another port, where somebody takes it between the look for it and the start of the program."""
UNASKED: Final = (20_000, 32_000)
"""Below the ports that Linux and macOS give to whoever asks for any."""
STOP_S: Final = 5.0
HOW_TO_GET_THEM: Final = (
    "Prometheus and Alertmanager are not installed, so that the demo runs without them. To get them: on Debian or "
    "Ubuntu `apt-get install prometheus prometheus-alertmanager`, on macOS `brew install prometheus alertmanager`, "
    "else the archives at https://prometheus.io/download in your PATH."
)


def program(name: str) -> str | None:
    """Path of a server's program, None where it is not installed."""
    return next((path for candidate in PROGRAMS[name] if (path := shutil.which(candidate))), None)


def free_port(preferred: int) -> int:
    """``preferred`` where it is free on the loopback interface, else a free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise DemoError("no free port on the loopback interface")


def reserved_port() -> int:
    """A free port for a process that takes it only after its imports: one that the system gives to nobody unasked."""
    for _ in range(ATTEMPTS):
        port = random.SystemRandom().randrange(*UNASKED)
        if free_port(port) == port:
            return port
    raise DemoError("no free port on the loopback interface")


def last_words(log: Path) -> str:
    """The last error in a server's log, or else its last line, and where the log is."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "level=error" in line]
    return f"{(errors or lines or ['it said nothing'])[-1]} ({log})"


@dataclass(slots=True)
class Server:
    """A started program."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_ready(self) -> None:
        """Wait until it answers; DemoError with its last words when it does not."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=1),
            ):
                if self._listens():
                    return
            time.sleep(0.05)
        raise DemoError(f"{self.name} did not become ready: {last_words(self.log)}")

    def _listens(self) -> bool:
        """It, and not another server that had the port before: alerts would go to that one."""
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.process.pid)
            # `connections` before psutil 6
            connections = getattr(process, "net_connections", None) or process.connections
            found = connections("tcp")
            listening = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
            return urlsplit(self.url).port in listening
        return False

    @property
    def port_was_taken(self) -> bool:
        """Whether it ended because of that."""
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return self.process.poll() is not None and "address already in use" in said

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Servers:
    """Two Prometheus replicas and an Alertmanager, scraping training processes."""

    directory: Path
    targets: Sequence[str]
    receiver_url: str
    replicas: int = 2
    file_sd: Sequence[str] = ()
    timing: Timing = field(default_factory=lambda: Timing(scrape_s=1))
    who: Paging | None = None
    """Who is told; by default the receiver is."""
    group_interval: str = alertmanager.GROUP_INTERVAL
    """Before Alertmanager tells that something joined a page."""
    started: list[Server] = field(default_factory=list)

    @property
    def available(self) -> bool:
        """Whether both programs are installed."""
        return all(program(name) for name in PROGRAMS)

    @property
    def prometheus(self) -> list[Server]:
        """The replicas."""
        return [server for server in self.started if server.name.startswith("prometheus")]

    def start(self) -> None:
        """Write the configuration and start everything."""
        (self.directory / "rlhf.rules.yaml").write_text(rules.rules_file(self.timing), encoding="utf-8")
        (self.directory / "rlhf.recording.yaml").write_text(
            recording.recording_file(self.timing), encoding="utf-8"
        )
        pager = self._start_alertmanager()
        for number in range(self.replicas):
            self._start_prometheus("ab"[number], pager)

    def stop(self) -> None:
        """Stop everything that was started."""
        while self.started:
            self.started.pop().stop()

    def _start_alertmanager(self) -> str:
        config = self.directory / "alertmanager.yml"
        config.write_text(
            alertmanager.config_file(
                self.timing, self.who or local(self.receiver_url), group_interval=self.group_interval
            ),
            encoding="utf-8",
        )
        (self.directory / "templates").mkdir(exist_ok=True)
        (self.directory / "templates/rlhf.tmpl").write_text(alertmanager.template_file(), encoding="utf-8")
        options = [
            f"--config.file={config}",
            f"--storage.path={self.directory / 'alertmanager'}",
            "--cluster.listen-address=",
        ]
        return urlsplit(self._launch("alertmanager", "alertmanager", 9093, options).url).netloc

    def _start_prometheus(self, replica: str, pager: str) -> None:
        config = self.directory / f"prometheus-{replica}.yml"
        content = prometheus.config_file(
            self.timing,
            rule_files=[str(self.directory / f"rlhf.{kind}.yaml") for kind in ("rules", "recording")],
            targets=self.targets,
            alertmanagers=[pager],
            external_labels={"replica": replica},
            file_sd=self.file_sd,
        )
        config.write_text(content, encoding="utf-8")
        options = [
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory / f'prometheus-{replica}'}",
            "--enable-feature=exemplar-storage",
            # Alertmanager is discovered seconds after the first evaluation: what was lost till then is sent again.
            "--rules.alert.resend-delay=5s",
        ]
        self._launch(f"prometheus-{replica}", "prometheus", 9090, options)

    def _launch(self, name: str, kind: str, usual_port: int, options: Sequence[str]) -> Server:
        """Start a program at its usual port, or where that is taken, at another."""
        for port in (usual_port, *(0,) * ATTEMPTS):
            server = self._spawn(name, kind, free_port(port), options)
            self.started.append(server)
            try:
                server.wait_ready()  # before the next looks for a free port
            except DemoError:
                if not server.port_was_taken:
                    raise
                self.started.remove(server)
            else:
                return server
        raise DemoError(f"{name} found no free port")

    def _spawn(self, name: str, kind: str, port: int, options: Sequence[str]) -> Server:
        path = program(kind)
        if path is None:
            raise DemoError(HOW_TO_GET_THEM)
        place = self.directory / f"{name}.log"
        # Links with the name of this host would lead nowhere: nobody listens there.
        address = [f"--web.listen-address=127.0.0.1:{port}", f"--web.external-url=http://127.0.0.1:{port}"]
        with place.open("wb") as log:
            process = subprocess.Popen(
                [path, *options, *address], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        return Server(name, f"http://127.0.0.1:{port}", process, place)
