"""What a scrape costs: ours beside prometheus_client's own collectors and OpenTelemetry's Prometheus exporter, and how
long it holds up a step.

    python benchmarks/scrape.py [--scrapes 100] [--seconds 20] [--json FILE] [--quick]

The same number of series is exposed by each: by ours, those of a run of the stub trainer; by the others gauges with a
label, in their own registry. All are encoded as OpenMetrics in turn. The CPU clock counts, since a scrape that waits costs
nothing. Then another process scrapes our endpoint once a second over HTTP, while the stub trainer steps, by turns with
seconds without scrapes; the longest step of each turn is compared.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, thread_time
from typing import Any, Final, NamedTuple

import offline  # before what it keeps off the network
import torch
from figures import Figure
from machine import argument_parser, headline, write_report
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest
from stub_trainer import StubTrainer

from rlhf_otel import TelemetryCallback, serving
from rlhf_otel.exporters import text_format
from rlhf_otel.exporters.exposition import RunsCollector

TARGET_MS: Final = 3.0
"""For 300 series."""
SERIES: Final = 300
STOLEN_MS: Final = 5.0
"""By which a scrape a second may hold up a step."""
SERIES_A_FAMILY: Final = 3
"""Series of one family, about as many as ours have."""
PAUSE_S: Final = 0.004
"""Between two steps: the stub trainer's own take a tenth of a millisecond, so that 200 a second go on."""
SCRAPER: Final = """
import sys, urllib.request
for line in sys.stdin:
    urllib.request.urlopen(sys.argv[1], timeout=10).read()
"""
"""Scrapes when told to."""


class Observed:
    """A run of the stub trainer that goes on."""

    def __init__(self) -> None:
        directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
        self.callback = TelemetryCallback(metrics_port=0, journal=directory, linger_s=0.0)
        self.trainer = StubTrainer([self.callback], directory, 10**6)
        self.trainer.begin()
        for _ in range(100):
            self.trainer.step()
        assert self.callback.run is not None
        self.run = self.callback.run
        self.run.pipeline.flush(60.0)

    def longest_steps_ms(self, seconds: float) -> dict[bool, list[float]]:
        """The longest step of each second, with a scrape in it and without, by turns."""
        scraper = subprocess.Popen(
            [sys.executable, "-c", SCRAPER, f"{serving.address()}/metrics"], stdin=subprocess.PIPE
        )
        assert scraper.stdin is not None
        longest: dict[bool, list[float]] = {True: [], False: []}
        for second in range(2 * int(seconds)):
            scraped = bool(second % 2)
            if scraped:
                scraper.stdin.write(b"\n")
                scraper.stdin.flush()
            longest[scraped].append(self._longest_step_ms())
        scraper.communicate(timeout=60)
        return longest

    def _longest_step_ms(self) -> float:
        longest, until = 0, time.monotonic() + 1.0
        while time.monotonic() < until:
            longest = max(longest, self.trainer.step().wall)
            time.sleep(PAUSE_S)
        return longest / 1e6


def of_prometheus_client(series: int) -> CollectorRegistry:
    """Gauges with a label, some series each."""
    registry = CollectorRegistry()
    for number in range(series // SERIES_A_FAMILY):
        gauge = Gauge(f"benchmark_{number}", "A gauge of the benchmark.", ["what"], registry=registry)
        for label in range(SERIES_A_FAMILY):
            gauge.labels(f"value-{label}").set(number + label / 7)
    return registry


def of_opentelemetry(series: int) -> Any:
    """The same by OpenTelemetry's exporter, which has its own collector; None where it is not installed."""
    try:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from opentelemetry.sdk.metrics import MeterProvider
    except ImportError:
        return None
    from prometheus_client import REGISTRY

    provider = MeterProvider([PrometheusMetricReader()])
    meter = provider.get_meter("benchmark")
    for number in range(series // SERIES_A_FAMILY):
        gauge = meter.create_gauge(f"otel_benchmark_{number}")
        for label in range(SERIES_A_FAMILY):
            gauge.set(number + label / 7, {"what": f"value-{label}"})
    return REGISTRY


class Milliseconds(NamedTuple):
    """Of a scrape: by wall clock, and by the CPU clock of the thread that collects and encodes."""

    wall: float
    cpu: float


def measure(contestants: dict[str, Callable[[], bytes]], scrapes: int) -> dict[str, list[Milliseconds]]:
    """Each scrape, interleaved."""
    found: dict[str, list[Milliseconds]] = {name: [] for name in contestants}
    for _ in range(scrapes):
        for name, scrape in contestants.items():
            wall, cpu = perf_counter(), thread_time()
            scrape()
            found[name].append(Milliseconds(1e3 * (perf_counter() - wall), 1e3 * (thread_time() - cpu)))
    return found


def main() -> int:
    """Measure, print, and fail when a scrape takes too long or holds up a step."""
    parser = argument_parser(__doc__, quick="few scrapes: does it run at all")
    parser.add_argument("--scrapes", type=int, default=100, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="with and without scrapes (default: %(default)s)"
    )
    arguments = parser.parse_args()
    scrapes, seconds = (5, 2.0) if arguments.quick else (arguments.scrapes, arguments.seconds)
    torch.set_num_threads(1)
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)  # what it finds in made-up numbers

    observed = Observed()
    ours = RunsCollector(lambda: [observed.run.view()])
    series = sum(len(family.samples) for family in ours.collect())
    times = measure(_contestants(ours, series), scrapes)
    print(headline())
    print(f"{series} series, {scrapes} scrapes of each, encoded as OpenMetrics; ms")
    print(f"{'':<20}{'median':>9}{'p99':>9}{'CPU':>9}{'CPU p99':>9}")
    for name, each in times.items():
        columns = [number for clock in zip(*each, strict=True) for number in (median(clock), _p99(clock))]
        print(f"{name:<20}" + "".join(f"{number:>9.2f}" for number in columns))
    longest = observed.longest_steps_ms(seconds)
    observed.trainer.end()
    serving.close()
    without, scraped = (median(longest[scraped]) for scraped in (False, True))
    print(
        f"longest step of a second, median of {len(longest[True])}: {without:.2f} ms, with a scrape {scraped:.2f} ms; "
        f"of all {max(longest[False]):.2f} and {max(longest[True]):.2f} ms"
    )
    per_target = median(one.cpu for one in times["rlhf_otel"]) * SERIES / series
    if arguments.json:
        report = {
            "series": series,
            "milliseconds": times,
            "longest_step_ms": {"without": longest[False], "scraped": longest[True]},
            "figures": [
                *(Figure(f"{name}, {series} series", _said(each)) for name, each in times.items()),
                Figure.at_most(f"rlhf_otel, CPU for {SERIES} series", per_target, TARGET_MS, "ms", 2),
                Figure.at_most("a step held up by a scrape a second", scraped - without, STOLEN_MS, "ms", 2),
            ],
        }
        write_report(
            arguments.json, ["rlhf-otel", "prometheus-client", "opentelemetry-exporter-prometheus"], report
        )
    missed = not arguments.quick and (per_target > TARGET_MS or scraped - without > STOLEN_MS)
    print(
        f"target: {SERIES} series under {TARGET_MS:g} ms (here {per_target:.2f}), no step held up by more than "
        f"{STOLEN_MS:g} ms: {'missed' if missed else 'met'}"
    )
    return 1 if missed else 0


def _contestants(ours: RunsCollector, series: int) -> dict[str, Callable[[], bytes]]:
    by_client = {"prometheus_client": of_prometheus_client(series), "OTel exporter": of_opentelemetry(series)}
    return {
        "rlhf_otel": lambda: text_format.encode(ours.collect(), openmetrics=True),
        **{name: partial(generate_latest, registry) for name, registry in by_client.items() if registry},
    }


def _said(times: list[Milliseconds]) -> str:
    wall, cpu = zip(*times, strict=True)
    return f"median {median(wall):.2f} ms, p99 {_p99(wall):.2f} ms; CPU {median(cpu):.2f} ms"


def _p99(times: Sequence[float]) -> float:
    return quantiles(times, n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
