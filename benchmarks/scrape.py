"""What a scrape costs: ours beside prometheus_client's own collectors and OpenTelemetry's Prometheus exporter, and how
long it holds up a step.

    python benchmarks/scrape.py [--scrapes 100] [--seconds 20] [--json FILE] [--quick]

The same number of series is exposed by each: by ours, those of a run of the stub trainer; by the others gauges with a
label, in their own registry. All are encoded as OpenMetrics in turn. Then another process scrapes our endpoint once a
second over HTTP, while the stub trainer steps, and the longest step is compared with the longest without scrapes.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any, Final

import offline  # before what it keeps off the network
import torch
from machine import headline, machine, versions
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.openmetrics.exposition import generate_latest
from stub_trainer import StubTrainer

from rlhf_otel import TelemetryCallback, serving
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
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1], timeout=10).read()
    time.sleep(1)
"""


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

    def longest_step_ms(self, seconds: float, scraped: bool) -> float:
        """The longest of the steps of some seconds."""
        address = serving.address()
        scraper = None
        if scraped:
            scraper = subprocess.Popen([sys.executable, "-c", SCRAPER, f"{address}"])
        longest, until = 0, time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                longest = max(longest, self.trainer.step().wall)
                time.sleep(PAUSE_S)
        finally:
            if scraper is not None:
                scraper.kill()
                scraper.wait()
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


def measure(contestants: dict[str, Any], scrapes: int) -> dict[str, list[float]]:
    """Milliseconds of each scrape, interleaved."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(scrapes):
        for name, registry in contestants.items():
            began = perf_counter()
            generate_latest(registry)
            found[name].append(1e3 * (perf_counter() - began))
    return found


def main() -> int:
    """Measure, print, and fail when a scrape takes too long or holds up a step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scrapes", type=int, default=100, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="with and without scrapes (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine, versions and numbers")
    parser.add_argument("--quick", action="store_true", help="few scrapes: does it run at all")
    arguments = parser.parse_args()
    scrapes, seconds = (5, 2.0) if arguments.quick else (arguments.scrapes, arguments.seconds)
    torch.set_num_threads(1)
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)  # what it finds in made-up numbers

    observed = Observed()
    ours = CollectorRegistry()
    ours.register(RunsCollector(lambda: [observed.run.view()]))
    series = _series(ours)
    contestants = {
        "rlhf_otel": ours,
        "prometheus_client": of_prometheus_client(series),
        "OTel exporter": of_opentelemetry(series),
    }
    contestants = {name: one for name, one in contestants.items() if one is not None}
    times = measure(contestants, scrapes)
    print(headline())
    print(f"{series} series, {scrapes} scrapes of each, encoded as OpenMetrics")
    for name, each in times.items():
        print(f"{name:<20} median {median(each):6.2f} ms, p99 {quantiles(each, n=100)[98]:6.2f} ms")
    without = observed.longest_step_ms(seconds, scraped=False)
    scraped = observed.longest_step_ms(seconds, scraped=True)
    observed.trainer.end()
    serving.close()
    print(f"longest step in {seconds:g} s: {without:.2f} ms, with a scrape a second {scraped:.2f} ms")
    per_target = median(times["rlhf_otel"]) * SERIES / series
    if arguments.json:
        report = {
            "machine": machine(),
            "versions": versions(["rlhf-otel", "prometheus-client", "opentelemetry-exporter-prometheus"]),
            "series": series,
            "milliseconds": times,
            "longest_step_ms": {"without": without, "scraped": scraped},
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    missed = not arguments.quick and (per_target > TARGET_MS or scraped - without > STOLEN_MS)
    print(
        f"target: {SERIES} series under {TARGET_MS:g} ms (here {per_target:.2f}), no step held up by more than "
        f"{STOLEN_MS:g} ms: {'missed' if missed else 'met'}"
    )
    return 1 if missed else 0


def _series(registry: CollectorRegistry) -> int:
    return sum(len(family.samples) for family in registry.collect())


if __name__ == "__main__":
    sys.exit(main())
