"""A long run at a steady pace: do memory, file descriptors, threads and latency stay flat?

    python benchmarks/soak.py [--minutes 60] [--rate 200] [--json FILE] [--quick]

The stub trainer steps at a fixed rate with everything on, another process scrapes once a second, and every half minute a
loss is no number, so that a rule is in breach (it fires anew only after minutes without) and a trace is kept. The last third
is compared with the first, without the tenth in which baselines warm up and buffers fill. What the trainer itself keeps for
ever (its log history) is forgotten.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final, NamedTuple

import offline  # before what it keeps off the network
import psutil
import torch
from figures import Figure
from machine import argument_parser, headline, write_report
from memory import forget_full_files
from stub_trainer import Cost, StubTrainer

from rlhf_otel import TelemetryCallback, serving

WINDOWS: Final = 30
"""Of a soak; those of its first tenth do not count."""
SPOILED_S: Final = 30.0
"""Between two steps whose loss is no number."""
LATE_S: Final = 0.01
TARGET_MIB: Final = 5.0
SLOWER: Final = 1.5
"""What the median step and the median scrape of the last third may take, in those of the first."""
SCRAPER: Final = """
import sys, time, urllib.request
while True:
    began = time.perf_counter()
    urllib.request.urlopen(sys.argv[1] + "/metrics", timeout=10).read()
    print(1e3 * (time.perf_counter() - began), flush=True)
    time.sleep(max(0.0, began + 1.0 - time.perf_counter()))
"""


class Window(NamedTuple):
    """Some minutes of the soak."""

    minute: float
    """Since the soak began."""
    resident_mib: float
    descriptors: int
    threads: int
    step_us: float
    """Median on the training thread, the stub's own included."""
    step_p99_us: float
    step_cpu_us: float
    """Median by the thread's CPU clock, on which other programs do not show."""
    scrape_ms: float
    """Median, as another process sees it."""
    queued: int
    """Jobs that wait for the background thread; memory is read when they are done."""
    late: int
    """Steps that began more than 10 ms after their time."""


class Scraper:
    """Another process that scrapes once a second, and says how long it took."""

    def __init__(self, address: str, said: Path) -> None:
        self._said = said
        with said.open("w") as out:
            self._process = subprocess.Popen([sys.executable, "-c", SCRAPER, address], stdout=out)
        self._read = 0

    def milliseconds(self) -> list[float]:
        """Of the scrapes since the last call. Raises RuntimeError when one failed."""
        if self._process.poll() is not None:
            raise RuntimeError("a scrape failed")
        said = self._said.read_text(encoding="ascii")
        fresh, self._read = said[self._read :], len(said)
        return [float(line) for line in fresh.splitlines()]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def soak(minutes: float, rate: float) -> dict[str, Any]:
    """Run; returns the windows, and what was lost."""
    directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
    callback = TelemetryCallback(metrics_port=0, journal=directory, linger_s=0.0)
    trainer = StubTrainer([callback], directory, int(minutes * 60 * rate) + 1)
    trainer.begin()
    assert callback.run is not None
    run, windows = callback.run, []
    run.pipeline.flush(60.0)
    scraper = Scraper(f"{serving.address()}", directory / "scrapes.txt")
    steps = max(1, int(minutes * 60 * rate / WINDOWS))
    try:
        began = time.monotonic()
        for _ in range(WINDOWS):
            costs, late = _steps(trainer, steps, rate)
            queued = run.pipeline.telemetry(0, 0.0).queued
            run.pipeline.flush(60.0)
            minute = (time.monotonic() - began) / 60
            windows.append(_seen(minute, costs, scraper.milliseconds(), queued, late))
            print(_line(windows[-1]), flush=True)
            trainer.state.log_history.clear()
            forget_full_files(directory)
    finally:
        scraper.close()
    run.pipeline.flush(60.0)
    counts, snapshot = run.pipeline.telemetry(0, 0.0), run.pipeline.snapshot
    trainer.end()
    serving.close()
    return {
        "windows": windows,
        "dropped": dict(counts.dropped),
        "anomalies": sum(verdict.total for verdict in snapshot.verdicts),
        "nonfinite_losses": snapshot.nonfinite["loss"],
    }


def _steps(trainer: StubTrainer, steps: int, rate: float) -> tuple[list[Cost], int]:
    """Steps at their times, and how many began late. What is late is not caught up with: steps that follow at once leave
    other threads no time, as no real ones do."""
    costs, late, spoiled = [], 0, int(SPOILED_S * rate)
    due = time.monotonic()
    for _ in range(steps):
        wait = due - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        late += time.monotonic() - due > LATE_S
        if trainer.state.global_step % spoiled == spoiled - 1:
            trainer.spoil()
        costs.append(trainer.step())
        due = max(due + 1 / rate, time.monotonic())
    return costs, late


def _seen(minute: float, costs: list[Cost], scrapes: list[float], queued: int, late: int) -> Window:
    process = psutil.Process()
    wall, cpu = ([clock / 1e3 for clock in clocks] for clocks in zip(*costs, strict=True))
    return Window(
        minute,
        process.memory_info().rss / 2**20,
        process.num_fds(),
        process.num_threads(),
        median(wall),
        quantiles(wall, n=100)[98],
        median(cpu),
        median(scrapes) if scrapes else 0.0,
        queued,
        late,
    )


TITLES: Final = (
    "minute",
    "MiB",
    "fds",
    "threads",
    "step µs",
    "p99 µs",
    "CPU µs",
    "scrape ms",
    "queued",
    "late",
)


def _line(window: Window) -> str:
    return "".join(f"{value:>10.1f}" if isinstance(value, float) else f"{value:>10}" for value in window)


def _thirds(windows: list[Window]) -> tuple[Window, Window]:
    """The medians of the first third and of the last, without the first tenth."""
    settled = windows[max(1, len(windows) // 10) :]
    third = max(1, len(settled) // 3)
    first, last = (
        Window(*(median(values) for values in zip(*part, strict=True)))
        for part in (settled[:third], settled[-third:])
    )
    return first, last


def compared(windows: list[Window]) -> dict[str, str]:
    """What has to stay flat, by name: the first third and the last."""
    first, last = _thirds(windows)
    return {
        "memory": f"{first.resident_mib:.1f} to {last.resident_mib:.1f} MiB",
        "descriptors": f"{first.descriptors:g} to {last.descriptors:g}",
        "threads": f"{first.threads:g} to {last.threads:g}",
        "steps": f"{first.step_cpu_us:.0f} to {last.step_cpu_us:.0f} µs of CPU",
        "scrapes": f"{first.scrape_ms:.1f} to {last.scrape_ms:.1f} ms",
    }


def not_flat(windows: list[Window]) -> dict[str, str]:
    """What grew of that."""
    first, last = _thirds(windows)
    grew = {
        "memory": last.resident_mib - first.resident_mib >= TARGET_MIB,
        "descriptors": last.descriptors > first.descriptors + 1,
        "threads": last.threads > first.threads + 1,
        "steps": last.step_cpu_us > SLOWER * first.step_cpu_us,
        "scrapes": last.scrape_ms > SLOWER * first.scrape_ms,
    }
    return {name: numbers for name, numbers in compared(windows).items() if grew[name]}


def main() -> int:
    """Soak, print, and fail when something grew or was dropped."""
    parser = argument_parser(__doc__, quick="half a minute: does it run at all")
    parser.add_argument("--minutes", type=float, default=60.0, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=200.0, help="steps a second (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)  # what it finds in made-up numbers

    print(headline())
    print("".join(f"{title:>10}" for title in TITLES))
    found = soak(0.5 if arguments.quick else arguments.minutes, arguments.rate)
    grown, dropped = not_flat(found["windows"]), sum(found["dropped"].values())
    said = ", ".join(f"{name} {numbers}" for name, numbers in grown.items()) or "nothing"
    print(
        f"{found['anomalies']} anomalies, non-finite losses seen {found['nonfinite_losses']} times, {dropped} dropped; "
        f"{said} grew"
    )
    if arguments.json:
        rows = [window._asdict() for window in found["windows"]]
        report = found | {"windows": rows, "grown": grown}
        lasted = f"{found['windows'][-1].minute:.0f} minutes at {arguments.rate:g} steps a second"
        report["figures"] = [
            Figure(f"{name}, {lasted}", numbers, "flat", name not in grown)
            for name, numbers in compared(found["windows"]).items()
        ]
        write_report(arguments.json, ["rlhf-otel", "trl"], report)
    missed = not arguments.quick and bool(grown or dropped)
    print(f"target: all flat, nothing dropped: {'missed' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
