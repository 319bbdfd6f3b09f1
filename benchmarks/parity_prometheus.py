"""A real Prometheus that is given series as blocks and evaluates expressions over them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

SCRAPE_S: Final = 15
START: Final = 1_700_006_400
"""Unix time of the first scrape: a multiple of two hours, as blocks are cut."""
READY_S: Final = 120

Series = Mapping[str, list[tuple[int, float]]]
"""Series without run_id, to numbers of scrapes and values."""


def evaluated(runs: Mapping[str, Series], expressions: Mapping[str, str]) -> dict[str, dict[str, set[int]]]:
    """For each named expression and run the scrapes at which it has a sample. OSError without Prometheus."""
    last = max((k for found in runs.values() for column in found.values() for k, _ in column), default=0)
    with TemporaryDirectory() as scratch, _serving(Path(scratch), runs) as address:
        return {name: _range(address, expression, last) for name, expression in expressions.items()}


@contextmanager
def _serving(scratch: Path, runs: Mapping[str, Series]) -> Iterator[str]:
    data = scratch / "data"
    data.mkdir()
    text = scratch / "series.txt"
    with text.open("w", encoding="utf-8") as file:
        for run, found in runs.items():
            for name, column in found.items():
                labelled = _labelled(name, run)
                file.writelines(f"{labelled} {value:.17g} {START + k * SCRAPE_S}\n" for k, value in column)
        file.write("# EOF\n")
    blocks = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(text), str(data)]
    done = subprocess.run(blocks, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"promtool: {done.stderr[-500:]}")
    (scratch / "prometheus.yml").write_text("{}\n", encoding="utf-8")
    address = f"127.0.0.1:{_free_port()}"
    command = [
        "prometheus", f"--config.file={scratch / 'prometheus.yml'}", f"--storage.tsdb.path={data}",
        f"--web.listen-address={address}", "--storage.tsdb.retention.time=100y", "--log.level=error",
    ]  # fmt: skip
    with (scratch / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            _await_ready(address, server)
            yield address
        finally:
            server.terminate()


def _labelled(name: str, run: str) -> str:
    metric, _, labels = name.partition("{")
    return f'{metric}{{run_id="{run}",instance="i"' + (f",{labels}" if labels else "}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _await_ready(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError("Prometheus did not become ready")


def _range(address: str, expression: str, last: int) -> dict[str, set[int]]:
    asked = urllib.parse.urlencode(
        {"query": expression, "start": START, "end": START + last * SCRAPE_S, "step": SCRAPE_S}
    ).encode()
    with urllib.request.urlopen(f"http://{address}/api/v1/query_range", asked, timeout=120) as answer:
        result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
    found: dict[str, set[int]] = {}
    for each in result:
        scrapes = {round((float(at) - START) / SCRAPE_S) for at, _ in each["values"]}
        found.setdefault(each["metric"]["run_id"], set()).update(scrapes)
    return found
