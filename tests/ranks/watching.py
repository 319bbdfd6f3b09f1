"""Several ranks for real: a launcher that starts them, and a real Prometheus that finds and judges them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from otlp_receiver import free_port
from tiny import _base_model

from rlhf_otel.demo import language
from rlhf_otel.demo.servers import Server, program
from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate import prometheus, recording, rules

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE_S = 120.0
"""For whatever takes its time on a busy machine."""
TIMING = Timing(scrape_s=1)


class Job:
    """A launched run of ``rank_script.py``; its files are in ``folder``."""

    def __init__(self, folder: Path, launcher: Sequence[str], steps: int, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _base_model(folder, language.tokenizer())
        self.folder = folder
        own = {
            name: value for name, value in os.environ.items() if not name.startswith(("RLHF_OTEL_", "OTEL_"))
        }
        environment = {
            **own,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent)]),
            "RANK_TEST_FOLDER": str(folder),
            "RANK_TEST_STEPS": str(steps),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **variables,
        }
        script = str(HERE / "rank_script.py")
        self._log = folder / "log.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).parent / launcher[0]), *launcher[1:], script],
                env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def log(self) -> str:
        """What all ranks said."""
        return self._log.read_text(errors="replace")

    def stop(self) -> int:
        """Pre-empt it: SIGTERM to the launcher, which hands it on; the exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end."""
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """End whatever is left of it: its ranks are in the launcher's session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def launched(folder: Path, launcher: Sequence[str], steps: int, **variables: str) -> Iterator[Job]:
    """A job that is gone afterwards."""
    job = Job(folder, launcher, steps, **variables)
    try:
        yield job
    finally:
        job.kill()


def torchrun(*options: str) -> list[str]:
    """Two ranks on this host; without options, torchrun gives the job no id."""
    return ["torchrun", "--nproc-per-node", "2", *(options or ("--master-port", str(free_port())))]


class Prometheus:
    """A running Prometheus, asked over its API."""

    def __init__(self, server: Server) -> None:
        self.url = server.url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant vector: ``metric`` and ``value`` of each sample."""
        parameters = urllib.parse.urlencode({"query": expression})
        found: list[dict[str, Any]] = self._get(f"query?{parameters}")["result"]
        return found

    def now(self) -> float:
        """Unix time, by its clock."""
        return float(self.query("vector(time())")[0]["value"][1])

    def alerts(self) -> list[dict[str, Any]]:
        """Alerts that fire now, without the watchdog."""
        alerts = self._get("alerts")["alerts"]
        return [a for a in alerts if a["state"] == "firing" and a["labels"]["rule"] != "Watchdog"]

    def ever_fired(self, **labels: str) -> set[str]:
        """Rules that have fired since the start, but the watchdog."""
        matchers = ",".join(f'{name}="{value}"' for name, value in {"alertstate": "firing", **labels}.items())
        found = self.query(f"count by (rule) (count_over_time(ALERTS{{{matchers}}}[1h]))")
        return {sample["metric"]["rule"] for sample in found} - {"Watchdog"}

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=30) as answer:
            return json.load(answer)["data"]


@contextlib.contextmanager
def watching(folder: Path, targets: Path, *more: str) -> Iterator[Prometheus]:
    """A real Prometheus with the generated rules, which scrapes each second whatever is in ``targets``."""
    targets.mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rules.yaml").write_text(rules.rules_file(TIMING))
    (folder / "recording.yaml").write_text(recording.recording_file(TIMING))
    (folder / "prometheus.yml").write_text(
        prometheus.config_file(
            TIMING,
            [str(folder / "rules.yaml"), str(folder / "recording.yaml")],
            file_sd=[str(targets / "*.json")],
            alertmanagers=(),
        )
    )
    path, port = program("prometheus"), free_port()
    assert path is not None
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *more,
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([path, *options], stdout=log, stderr=subprocess.STDOUT)
    server = Server("prometheus", f"http://127.0.0.1:{port}", process, Path(log.name))
    try:
        server.wait_ready()
        yield Prometheus(server)
    finally:
        server.stop()


def wait_for(what: str, condition: Callable[[], Any], said: Callable[[], str] = str) -> Any:
    """What ``condition`` returns, once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S} s\n{said()[-4000:]}"
        time.sleep(0.2)
    return found
