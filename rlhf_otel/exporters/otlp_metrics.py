"""The same snapshot by OTLP, pushed, where nothing can reach the process to scrape it. Experimental.

What a scrape would show is sent every few seconds to the endpoint that the standard variables name. Names,
units and types are chosen so that OpenTelemetry's mapping to Prometheus gives back the names of the scrape:
``_total`` is left to the mapping, and a unit is only stated where the name has it already. Labels are
attributes of the data points, the run id too, since those of the resource become no labels. Exemplars stay out.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from rlhf_otel import faults
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.exporters.otlp_environment import otlp_metrics_destination
from rlhf_otel.exporters.span_tree import resource_attributes
from rlhf_otel.exporters.traces import spare_global_randomness
from rlhf_otel.records import RunIdentity, RunView

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData
    from opentelemetry.sdk.resources import Resource
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.samples import Sample

UCUM: Final = {"seconds": "s", "bytes": "By", "ratio": "1", "celsius": "Cel", "watts": "W", "hertz": "Hz"}
"""Units of our names, as OpenTelemetry writes them."""
SDK_LOGGERS: Final = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
)
"""Where the SDK logs each failed attempt."""

Views = Callable[[], Sequence[RunView]]


class MetricsPush:
    """Pushes what ``views`` returns every ``interval_s``, on a thread of its own, until it is stopped."""

    def __init__(
        self, identity: RunIdentity, views: Views, exporter: MetricExporter, interval_s: float
    ) -> None:
        self._resource = _resource(identity)
        self._views = views
        self._exporter = exporter
        self._interval_s = interval_s
        self._turn = threading.Condition()
        self._asked = self._done = 0
        self._stopping = False
        self._failing = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._work, name="rlhf_otel-push", daemon=True)

    @classmethod
    def from_environment(cls, identity: RunIdentity, views: Views, interval_s: float) -> MetricsPush:
        """To the endpoint that the standard variables name.

        Raises:
            ConfigurationError: they name none, or an impossible value.
        """
        return cls(identity, views, _exporter(), interval_s)

    def start(self) -> None:
        """Begin; the first push is at once."""
        self._thread.start()

    def push(self, timeout_s: float, last: bool = False) -> bool:
        """Push now, and stop after that if it is the ``last``; whether that was done within ``timeout_s``."""
        if os.getpid() != self._pid or not self._thread.is_alive():
            return False
        with self._turn:
            self._asked += 1
            mine = self._asked
            self._stopping = self._stopping or last
            self._turn.notify_all()
            return self._turn.wait_for(lambda: self._done >= mine, timeout_s)

    def _work(self) -> None:
        quiet = _Withhold()
        quiet.attach()
        while not self._stopping or self._asked > self._done:
            asked = self._asked
            with faults.isolated("endpoint", "pushing metrics"):
                self._export()
            with self._turn:
                self._done = asked
                self._turn.notify_all()
                self._turn.wait_for(
                    lambda: self._asked > self._done, 0 if self._stopping else self._interval_s
                )
        quiet.detach()
        with faults.isolated("endpoint", "closing the OTLP metrics exporter"):
            self._exporter.shutdown()

    def _export(self) -> None:
        from opentelemetry.sdk.metrics.export import MetricExportResult

        data = metrics_data(self._views(), self._resource, time.time_ns())
        failed = self._exporter.export(data) is not MetricExportResult.SUCCESS
        first, self._failing = failed and not self._failing, failed
        if first:  # one outage, however long, is one fault
            raise ConnectionError("the OTLP endpoint did not take the metrics")


def metrics_data(views: Sequence[RunView], resource: Resource, now_ns: int) -> MetricsData:
    """All families of these runs, as the SDK's data; the scope is this package."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    started_ns = int(min((view.snapshot.started_s for view in views), default=0.0) * 1e9)
    families = RunsCollector(lambda: views).collect()
    metrics = [_metric(family, started_ns, now_ns) for family in families]
    scope = ScopeMetrics(InstrumentationScope("rlhf_otel"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, started_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics import export

    name = f"{family.name}_info" if family.type == "info" else family.name
    data: Any
    if family.type == "histogram":
        points = list(_histogram_points(family.samples, started_ns, now_ns))
        data = export.Histogram(points, export.AggregationTemporality.CUMULATIVE)
    elif family.type == "counter":
        data = export.Sum(
            list(_points(family.samples, started_ns, now_ns)), export.AggregationTemporality.CUMULATIVE, True
        )
    else:
        data = export.Gauge(list(_points(family.samples, started_ns, now_ns)))
    return export.Metric(name, family.documentation, _unit(name), data)


def _unit(name: str) -> str:
    """The unit that the name states. None else: the mapping to Prometheus would append it."""
    return next((UCUM[part] for part in reversed(name.split("_")) if part in UCUM), "")


def _points(samples: Iterable[Sample], started_ns: int, now_ns: int) -> Iterator[Any]:
    from opentelemetry.sdk.metrics.export import NumberDataPoint

    return (NumberDataPoint(s.labels, started_ns, now_ns, float(s.value)) for s in samples)


def _histogram_points(samples: Iterable[Sample], started_ns: int, now_ns: int) -> Iterator[Any]:
    """One point for each set of labels: Prometheus' buckets are cumulative, OTLP's are not."""
    from opentelemetry.sdk.metrics.export import HistogramDataPoint

    bounds: dict[tuple[tuple[str, str], ...], list[tuple[float, int]]] = {}
    sums: dict[tuple[tuple[str, str], ...], float] = {}
    for sample in samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        key = tuple(sorted(labels.items()))
        if sample.name.endswith("_bucket"):
            bounds.setdefault(key, []).append((float(sample.labels["le"]), int(sample.value)))
        elif sample.name.endswith("_sum"):
            sums[key] = float(sample.value)
    for key, buckets in bounds.items():
        cumulative = [count for _, count in buckets]
        counts = [after - before for before, after in zip([0, *cumulative], cumulative, strict=False)]
        limits = [bound for bound, _ in buckets[:-1]]
        none: Any = None  # minimum and maximum are optional in OTLP
        yield HistogramDataPoint(
            dict(key), started_ns, now_ns, cumulative[-1], sums[key], counts, limits, none, none
        )


# --- the environment


def _exporter() -> MetricExporter:
    exporter: MetricExporter = _sdk_exporter(otlp_metrics_destination().protocol)
    spare_global_randomness()
    return exporter


def _sdk_exporter(protocol: str) -> Any:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

    return HttpExporter()


def _resource(identity: RunIdentity) -> Resource:
    """As of the traces, with the service's name and instance: Prometheus' ``job`` and ``instance``."""
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

    instance = f"{socket.gethostname()}:{os.getpid()}"
    resource = Resource.create({SERVICE_INSTANCE_ID: instance, **resource_attributes(identity)})
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "rlhf"}))
    return resource


class _Withhold(logging.Filter):
    """Withholds what the SDK logs on this thread, at each attempt: a fault says it once."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def attach(self) -> None:
        """Begin."""
        for name in SDK_LOGGERS:
            logging.getLogger(name).addFilter(self)

    def detach(self) -> None:
        """Leave the SDK's loggers as they were."""
        for name in SDK_LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by the SDK's loggers."""
        return record.thread != self._thread
