"""What many ranks cost: 8, 64 and 512 simulated ones, scraped and judged by one real Prometheus.

python benchmarks/scale.py [--ranks 8 64 512] [--json FILE] [--quick]

For each number of ranks: series and samples of a scrape, time of a scrape, time of all generated rules, memory and
processor time of Prometheus, and what one scrape costs the rank that answers it. ``docs/scale.md`` goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from machine import argument_parser, headline, write_report

from rlhf_otel.demo.servers import Server, free_port, program
from rlhf_otel.detection.promql import Timing
from rlhf_otel.generate import prometheus, rules

HERE: Final = Path(__file__).parent
PATIENCE_S: Final = 300.0
COLUMNS: Final = {
    "ranks": ("ranks", "{:d}"),
    "series": ("series", "{:.0f}"),
    "samples_rank_0": ("of rank 0", "{:.0f}"),
    "samples_other": ("of another", "{:.0f}"),
    "scrape_p50_ms": ("scrape p50 ms", "{:.1f}"),
    "scrape_p99_ms": ("p99 ms", "{:.1f}"),
    "rank_ms": ("rank's CPU ms a scrape", "{:.2f}"),
    "gzip_bytes": ("bytes a scrape", "{:.0f}"),
    "rules_ms": ("all rules ms", "{:.0f}"),
    "slowest": ("slowest ms", "{}"),
    "prometheus_cpu": ("Prometheus cores", "{:.3f}"),
    "prometheus_mib": ("MiB", "{:.0f}"),
    "kib_per_rank": ("KiB a rank", "{:.0f}"),
}


class Watching:
    """A running Prometheus and the numbers that it has of itself and its targets."""

    def __init__(self, url: str) -> None:
        self.url = url

    def number(self, expression: str) -> float:
        """The single value of a query; 0 without one."""
        query = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=60) as answer:
            found = json.load(answer)["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def own(self, name: str) -> float:
        """The sum of a family that Prometheus exposes about itself."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        rows = (line.rpartition(" ") for line in lines if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(value) for _, _, value in rows)


@contextlib.contextmanager
def watching(folder: Path, targets: Path, timing: Timing) -> Iterator[Watching]:
    """A real Prometheus with the generated rules over whatever is in ``targets``."""
    path = program("prometheus")
    if path is None:
        sys.exit("prometheus is not installed: see deploy/install-servers.sh")
    rule_file, config = folder / "rules.yaml", folder / "prometheus.yml"
    rule_file.write_text(rules.rules_file(timing), encoding="utf-8")
    config.write_text(
        prometheus.config_file(timing, [str(rule_file)], file_sd=[str(targets / "*.json")], alertmanagers=()),
        encoding="utf-8",
    )
    port = free_port(0)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                path,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Server("prometheus", f"http://127.0.0.1:{port}", process, folder / "prometheus.log")
    try:
        server.wait_ready()
        yield Watching(server.url)
    finally:
        server.stop()


def measure(ranks: int, scrapes: int, timing: Timing, folder: Path) -> dict[str, Any]:
    """One row: ``ranks`` ranks, watched for so many scrapes after all of them are there."""
    targets = folder / "targets"
    targets.mkdir()
    with watching(folder, targets, timing) as watched:
        empty_bytes = watched.own("process_resident_memory_bytes")
        serving = subprocess.Popen(
            [sys.executable, str(HERE / "simulated_ranks.py"), str(ranks), str(targets)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            await_all(watched, ranks)
            row = watch(watched, scrapes * timing.scrape_s)
            said = finish(serving)
        finally:
            serving.kill()
    row["ranks"] = ranks
    row["rank_ms"] = 1e3 * said["scrape_seconds"] / max(1, said["scrapes"])
    row["gzip_bytes"] = said["other_rank"]["gzip_bytes"]
    row["kib_per_rank"] = (row["prometheus_mib"] * 2**20 - empty_bytes) / ranks / 1024
    return row


def await_all(watched: Watching, ranks: int) -> None:
    """Wait until every rank has been scraped."""
    deadline = time.monotonic() + PATIENCE_S
    while watched.number("count(up == 1)") < ranks:
        if time.monotonic() > deadline:
            sys.exit(f"{ranks} ranks were not all scraped within {PATIENCE_S:.0f} s")
        time.sleep(1)


def watch(watched: Watching, seconds: float) -> dict[str, Any]:
    """Numbers of the time that begins now."""
    cpu, began = watched.own("process_cpu_seconds_total"), time.monotonic()
    time.sleep(seconds)
    elapsed = time.monotonic() - began
    window = f"[{max(1, round(elapsed))}s]"
    return {
        "series": watched.number('count({job="rlhf"})'),
        "samples_rank_0": watched.number('max(scrape_samples_scraped{rank="0"})'),
        "samples_other": watched.number('max(scrape_samples_scraped{rank!="0"})'),
        "scrape_p50_ms": 1e3
        * watched.number(f"quantile(0.5, avg_over_time(scrape_duration_seconds{window}))"),
        "scrape_p99_ms": 1e3
        * watched.number(f"quantile(0.99, max_over_time(scrape_duration_seconds{window}))"),
        **slowest(watched),
        "prometheus_cpu": (watched.own("process_cpu_seconds_total") - cpu) / elapsed,
        "prometheus_mib": watched.own("process_resident_memory_bytes") / 2**20,
        "failed_scrapes": watched.number(f"sum(count_over_time((up == 0){window[:-1]}:{1}s]))"),
    }


def slowest(watched: Watching) -> dict[str, Any]:
    """Time of the last evaluation of all rules, and the three that took longest."""
    with urllib.request.urlopen(f"{watched.url}/api/v1/rules", timeout=60) as answer:
        groups = json.load(answer)["data"]["groups"]
    times = sorted(
        ((rule["evaluationTime"], rule["name"]) for group in groups for rule in group["rules"]), reverse=True
    )
    return {
        "rules_ms": 1e3 * sum(seconds for seconds, _ in times),
        "slowest": ", ".join(f"{name} {1e3 * seconds:.0f}" for seconds, name in times[:3]),
    }


def finish(serving: subprocess.Popen[str]) -> dict[str, Any]:
    """Let the ranks end; what they say."""
    said, _ = serving.communicate("")
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    return report


def main() -> int:
    """Measure each number of ranks; 1 when a scrape failed or a rank has more series than it may."""
    parser = argument_parser(__doc__, quick="4 ranks for some seconds: does it run at all")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64, 512])
    arguments = parser.parse_args()
    timing, scrapes = (Timing(scrape_s=1), 5) if arguments.quick else (Timing(), 6)
    numbers = [4] if arguments.quick else arguments.ranks

    print(f"{headline()}; scraped every {timing.scrape_s} s")
    print(" | ".join(title for title, _ in COLUMNS.values()))
    rows = []
    for ranks in numbers:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(ranks, scrapes, timing, Path(folder)))
        print(" | ".join(form.format(rows[-1][key]) for key, (_, form) in COLUMNS.items()), flush=True)
    if arguments.json:
        report = {
            "rows": rows,
        }
        write_report(arguments.json, ["rlhf-otel", "prometheus-client"], report)
    sound = all(
        r["samples_rank_0"] <= 400 and r["samples_other"] <= 120 and not r["failed_scrapes"] for r in rows
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
