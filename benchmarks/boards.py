"""How long all queries of all boards take: 64 ranks, six hours, a real Prometheus with and without recorded series.

    python benchmarks/boards.py [--ranks N] [--hours N] [--repeat N] [--json FILE] [--quick]

A GRPO run with ten reward functions and so many ranks, and a run of one rank for every other family's board, scraped every
15 seconds, lie in Prometheus as blocks; recorded series are filled in by ``promtool`` from the generated rules. Each query
of each panel, variable and annotation is sent as Grafana would send it, one after another, over the whole time. The sum
of the medians is to stay below 2 s. Beside it stands the same with every recorded series replaced by its expression.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any, Final

from machine import argument_parser, headline, write_report

ROOT: Final = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from views import view_of  # noqa: E402

from rlhf_otel.catalogue.recorded import RECORDED_BY_NAME  # noqa: E402
from rlhf_otel.dashboards import BOARDS  # noqa: E402
from rlhf_otel.dashboards.asking import Asked, Span, queries  # noqa: E402
from rlhf_otel.dashboards.spec import Scope  # noqa: E402
from rlhf_otel.demo.servers import Server, free_port, program  # noqa: E402
from rlhf_otel.detection.promql import RANGE_SCRAPES, Timing  # noqa: E402
from rlhf_otel.exporters.exposition import RunsCollector  # noqa: E402
from rlhf_otel.generate.recording import recording_file  # noqa: E402
from rlhf_otel.replay import blocks  # noqa: E402

LIMIT_S: Final = 2.0
SCRAPE_S: Final = 15
BLOCK_S: Final = 2 * 3600
START: Final = 1_700_006_400
"""Unix time of the first scrape: a multiple of two hours, as blocks are cut."""
MANY: Final = "grpo"
OTHERS: Final = {
    "rlhf-run-async": "asyncgrpo", "rlhf-run-ppo": "ppo", "rlhf-run-preference": "dpo",
    "rlhf-run-online": "onlinedpo", "rlhf-run-supervised": "sft",
}  # fmt: skip
"""Board to the algorithm of the run that it is opened with; all others show the run with many ranks."""
_RISING: Final = re.compile(r"_(total|count|sum|bucket)$")
_RECORDED: Final = re.compile(r"\b(run(?:_[a-z]+)?:rlhf_[a-z0-9_:]+)\{([^}]*)\}(\[[^\]]+\])?")
EVERYTHING: Final = {"job": ".+", "team": ".*", "rank": ".+"}


def ranks_of(algorithm: str, rank: int) -> Iterator[tuple[str, str, float]]:
    """Name, labels and value of every sample of a scrape."""
    view = view_of(algorithm, rank)
    identity = {"job": "rlhf", "instance": f"{algorithm}-{rank}"}
    for family in RunsCollector(lambda: [view]).collect():
        for sample in family.samples:
            labels = {**sample.labels, **identity, "run_id": algorithm}
            text = ",".join(f'{name}="{value}"' for name, value in labels.items())
            yield sample.name, text, float(sample.value)
    yield (
        "up",
        ",".join(f'{k}="{v}"' for k, v in {**identity, "run_id": algorithm, "rank": rank}.items()),
        1.0,
    )


def lines(samples: list[tuple[str, str, float]], first: int, end: int, began: int) -> Iterator[str]:
    """OpenMetrics of the scrapes from ``first`` up to ``end``: counters rise, clocks follow, gauges move a little."""
    noise = random.Random(first)
    for name, labels, value in samples:
        if name in ("rlhf_run_end_timestamp_seconds", "rlhf_stall_threshold_seconds"):
            continue
        for at in range(first, end, SCRAPE_S):
            yield f"{name}{{{labels}}} {_moved(name, value, at, began, noise):.6g} {at}\n"
    yield "# EOF\n"


def _moved(name: str, value: float, at: int, began: int, noise: random.Random) -> float:
    if name.startswith("rlhf_process_start"):
        return began
    if name.endswith("_timestamp_seconds"):
        return at - 5
    if _RISING.search(name) or name == "rlhf_step":
        return value * (at - began) / SCRAPE_S
    return value if name.endswith(("_info", "_active", "up")) else value * noise.gauss(1.0, 0.02)


def fill(data: Path, ranks: int, hours: float) -> int:
    """Write all blocks; returns the number of series."""
    runs = [(MANY, rank) for rank in range(ranks)] + [(algorithm, 0) for algorithm in OTHERS.values()]
    samples = [sample for algorithm, rank in runs for sample in ranks_of(algorithm, rank)]
    last = START + round(hours * 3600)
    for first in range(START, last, BLOCK_S):
        blocks.create(lines(samples, first, min(first + BLOCK_S, last), START), data)
    return len(samples)


def record(url: str, data: Path, span: Span, folder: Path) -> None:
    """Fill in the recorded series of that time, as ``promtool`` does it for a Prometheus that was given rules late."""
    rules = folder / "recording.yaml"
    rules.write_text(recording_file(Timing()), encoding="utf-8")
    times = (f"--start={span.start:.0f}", f"--end={span.end:.0f}", f"--eval-interval={SCRAPE_S}s")
    command = [
        "promtool",
        "tsdb",
        "create-blocks-from",
        "rules",
        *times,
        f"--url={url}",
        f"--output-dir={data}",
    ]
    done = subprocess.run([*command, str(rules)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"promtool: {done.stderr[-500:]}")


def prepared(folder: Path, ranks: int, hours: float, span: Span) -> int:
    """Blocks in ``folder``, unless they are there already; returns the number of series that are scraped."""
    data, said = folder / "data", folder / "series"
    if not said.exists():
        data.mkdir(parents=True)
        series = fill(data, ranks, hours)
        with serving(data) as url:
            record(url, data, span, folder)
        said.write_text(str(series), encoding="utf-8")
    return int(said.read_text(encoding="utf-8"))


@contextmanager
def serving(data: Path) -> Iterator[str]:
    """A Prometheus over ``data`` that scrapes nothing."""
    path = program("prometheus")
    if path is None:
        sys.exit("prometheus is not installed: see deploy/install-servers.sh")
    config, port = data.parent / "prometheus.yml", free_port(0)
    config.write_text("{}\n", encoding="utf-8")
    command = [
        path, f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=100y", "--log.level=error",
    ]  # fmt: skip
    said = data.parent / "prometheus.log"
    with said.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    server = Server("prometheus", f"http://127.0.0.1:{port}", process, said)
    try:
        server.wait_ready()
        yield server.url
    finally:
        server.stop()


class Asking:
    """One connection to Prometheus, kept open as Grafana does."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(url.removeprefix("http://"), timeout=120)

    def ask(self, asked: Asked, expression: str, span: Span) -> tuple[float, int]:
        """Seconds until the whole answer is here, and its number of series."""
        when = (
            {"time": span.end}
            if asked.instant
            else {"start": span.start, "end": span.end, "step": asked.step_s}
        )
        body = urllib.parse.urlencode({"query": expression, **when})
        path = "query" if asked.instant else "query_range"
        began = time.perf_counter()
        content = self._answer("POST", f"/api/v1/{path}", body)
        return time.perf_counter() - began, len(json.loads(content)["data"]["result"])

    def cpu_s(self) -> float:
        """Processor time that Prometheus has taken so far."""
        (found,) = re.findall(
            rb"^process_cpu_seconds_total (\S+)$", self._answer("GET", "/metrics"), re.MULTILINE
        )
        return float(found)

    def _answer(self, method: str, path: str, body: str = "") -> bytes:
        self._connection.request(
            method,
            path,
            body,
            {"Content-Type": "application/x-www-form-urlencoded", "Accept-Encoding": "gzip"},
        )
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != HTTPStatus.OK:
            sys.exit(f"{path}: {content.decode()}: {body}")
        return gzip.decompress(content) if answer.headers["Content-Encoding"] == "gzip" else content


def unrecorded(expression: str) -> str:
    """``expression`` with each recorded series replaced by what it is recorded from."""
    return _RECORDED.sub(_from_raw, expression)


def _from_raw(found: re.Match[str]) -> str:
    name, matchers, window = found.groups()
    recorded = RECORDED_BY_NAME[name]
    text = recorded.expression.replace("$range", Timing().duration(RANGE_SCRAPES))
    text = Scope(", " + matchers if "," not in matchers else matchers)(text)
    return f"({text})" + (f"{window[:-1]}:{SCRAPE_S}s]" if window else "")


def measure(url: str, span: Span, repeat: int, written: Callable[[str], str]) -> dict[str, Any]:
    """Median seconds of each board and its slowest queries."""
    found: dict[str, Any] = {}
    prometheus = Asking(url)
    for board in BOARDS:
        began = prometheus.cpu_s()
        content = json.loads((ROOT / f"grafana/dashboards/{board.uid}.json").read_text(encoding="utf-8"))
        everyone = board.uid == "rlhf-fleet"
        run = ".+" if everyone else OTHERS.get(board.uid, MANY)
        times = []
        for asked in queries(content, {**EVERYTHING, "run": run}, span):
            answers = [prometheus.ask(asked, written(asked.expression), span) for _ in range(repeat)]
            times.append((median(seconds for seconds, _ in answers), asked.owner, answers[0][1]))
        found[board.uid] = {
            "seconds": sum(seconds for seconds, _, _ in times),
            "cpu_seconds": (prometheus.cpu_s() - began) / repeat,
            "queries": len(times),
            "answered": sum(series > 0 for _, _, series in times),
            "slowest": sorted(times, reverse=True)[:3],
        }
    return found


def show(found: dict[str, dict[str, Any]], peer: dict[str, dict[str, Any]]) -> None:
    """A line a board."""
    print(f"{'board':<22} {'queries':>7} {'answered':>8} {'ms':>7} {'CPU ms':>7} {'raw ms':>7}  slowest")
    for uid, board in found.items():
        slowest = ", ".join(f"{owner} {1e3 * seconds:.0f}" for seconds, owner, _ in board["slowest"])
        times = (board["seconds"], board["cpu_seconds"], peer[uid]["seconds"])
        columns = " ".join(f"{1e3 * seconds:>7.0f}" for seconds in times)
        print(f"{uid:<22} {board['queries']:>7} {board['answered']:>8} {columns}  {slowest}")


def main() -> int:
    """Measure, print, and fail when all boards together take longer than the limit."""
    parser = argument_parser(__doc__, quick="2 ranks, an hour: does it run at all")
    parser.add_argument("--ranks", type=int, default=64)
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="keep the blocks there, and use those that are there"
    )
    arguments = parser.parse_args()
    ranks, hours, repeat = (
        (2, 1.0, 1) if arguments.quick else (arguments.ranks, arguments.hours, arguments.repeat)
    )

    span = Span(START, START + hours * 3600 - SCRAPE_S, SCRAPE_S)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.data or Path(scratch)
        series = prepared(folder, ranks, hours, span)
        with serving(folder / "data") as url:
            found = measure(url, span, repeat, str)
            peer = measure(url, span, repeat, unrecorded)

    print(headline())
    print(
        f"{ranks} ranks, {series} series, {hours:g} h scraped every {SCRAPE_S} s; median of {repeat}, queries one by one"
    )
    show(found, peer)
    total, raw = (sum(board["seconds"] for board in boards.values()) for boards in (found, peer))
    cpu = sum(board["cpu_seconds"] for board in found.values())
    count = sum(board["queries"] for board in found.values())
    print(
        f"all {count} queries: {total:.2f} s ({cpu:.2f} s of processor time) with recorded series, "
        f"{raw:.2f} s without; limit {LIMIT_S:g} s"
    )
    if arguments.json:
        report = {
            "series": series,
            "boards": found,
            "raw": peer,
        }
        write_report(arguments.json, ["rlhf-otel"], report)
    return 0 if total < LIMIT_S else 1


if __name__ == "__main__":
    sys.exit(main())
