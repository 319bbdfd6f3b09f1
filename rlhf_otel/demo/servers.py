"""Prometheus and Alertmanager as the demo starts them: the real programs, with the generated configuration."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import DemoError
from rlhf_otel.generate import alertmanager, prometheus, recording, rules
from rlhf_otel.generate.paging import Paging, local

PROGRAMS: Final = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
"""Debian's names first."""
READY_S: Final = 20.0
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
                contextlib.suppress(urllib.error.URLError, ConnectionError),
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=1),
            ):
                if self.process.poll() is None:  # else another server has the port
                    return
            time.sleep(0.05)
        raise DemoError(f"{self.name} did not become ready: {last_words(self.log)}")

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
        port = free_port(9093)
        config = self.directory / "alertmanager.yml"
        config.write_text(
            alertmanager.config_file(self.timing, self.who or local(self.receiver_url)), encoding="utf-8"
        )
        (self.directory / "templates").mkdir(exist_ok=True)
        (self.directory / "templates/rlhf.tmpl").write_text(alertmanager.template_file(), encoding="utf-8")
        options = [
            f"--config.file={config}",
            f"--storage.path={self.directory / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--web.external-url=http://127.0.0.1:{port}",  # else links name this host, where nobody listens
            "--cluster.listen-address=",
        ]
        self._launch("alertmanager", "alertmanager", port, options)
        return f"127.0.0.1:{port}"

    def _start_prometheus(self, replica: str, pager: str) -> None:
        port = free_port(9090)
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
            f"--web.listen-address=127.0.0.1:{port}",
            f"--web.external-url=http://127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            # Alertmanager is discovered seconds after the first evaluation: what was lost till then is sent again.
            "--rules.alert.resend-delay=5s",
        ]
        self._launch(f"prometheus-{replica}", "prometheus", port, options)

    def _launch(self, name: str, kind: str, port: int, options: Sequence[str]) -> None:
        path = program(kind)
        if path is None:
            raise DemoError(HOW_TO_GET_THEM)
        place = self.directory / f"{name}.log"
        with place.open("wb") as log:
            process = subprocess.Popen(
                [path, *options], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        server = Server(name, f"http://127.0.0.1:{port}", process, place)
        self.started.append(server)
        server.wait_ready()  # before the next looks for a free port
