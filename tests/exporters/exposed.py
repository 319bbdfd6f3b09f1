"""Runs as a scrape shows them, in both formats."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from views import complete_view

from rlhf_otel.catalogue.metrics import MetricType
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.records import RunView

VIEW = complete_view()
SUFFIX = {MetricType.COUNTER: "_total", MetricType.INFO: "_info"}


def registry(*views: RunView) -> CollectorRegistry:
    found = CollectorRegistry()
    found.register(RunsCollector(lambda: views))
    return found


def as_text(*views: RunView) -> str:
    return generate_latest(registry(*views)).decode()


def as_openmetrics(*views: RunView) -> str:
    return openmetrics.generate_latest(registry(*views)).decode()


def families(view: RunView) -> dict[str, Family]:
    return {family.name: family for family in parse_openmetrics(as_openmetrics(view))}


def series(view: RunView) -> int:
    return sum(not line.startswith("#") for line in as_text(view).splitlines())
