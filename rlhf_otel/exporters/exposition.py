"""Exposition: metric families for Prometheus, collected from run views at scrape time.

Which families exist, with type, help and labels, is the catalogue's business; ``run_samples`` reads their samples from a
:class:`~rlhf_otel.records.RunView`. A family that fails is left out and counted; the others are exposed all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any, Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from rlhf_otel import faults
from rlhf_otel.catalogue.metrics import METRICS, STEP_DURATION_BUCKETS, Metric, MetricType
from rlhf_otel.exporters.run_samples import SAMPLES, Sample
from rlhf_otel.plain_text import shown
from rlhf_otel.records import HistogramState, RunView


class RunsCollector(Collector):
    """Exposes the runs that ``views`` returns: those in progress, and ended ones that are still held."""

    plain_names: Final = True
    """Names are of letters, digits and underscores: ``text_format`` may encode what this collects."""

    def __init__(self, views: Callable[[], Sequence[RunView]]) -> None:
        self._views = views

    def describe(self) -> list[Family]:
        """Nothing: names are not known to the registry beforehand."""
        return []

    def collect(self) -> Iterator[Family]:
        """All families that have samples."""
        views = self._views()
        for metric in METRICS:
            try:
                family = _family(metric, views)
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.record("exposition", error, f"exposing {metric.name}")
                continue
            if family is not None:
                yield family


def _family(metric: Metric, views: Sequence[RunView]) -> Family | None:
    family = None
    per_rank = "rank" in metric.labels
    samples = SAMPLES[metric.name]
    for view in views:
        if view.identity.rank != 0 and (metric.rank_0_alone or not per_rank):
            continue
        if view.outlived and metric.group != "run":
            continue
        head, tail = [_encodable(view.identity.run_id)], [str(view.identity.rank)] if per_rank else []
        for sample in samples(view):
            if family is None:
                family = _fresh(metric)
            _ADD[metric.type](family, [*head, *map(_encodable, sample.labels), *tail], sample)
    return family


def _encodable(label: str) -> str:
    """Half of a surrogate pair, in a log key, a function's name or a path, cannot be encoded; and what a control character
    does is nobody's name."""
    return label if label.isascii() and label.isprintable() else shown(label)


def _fresh(metric: Metric) -> Family:
    """Without samples. A copy: prometheus_client would check the same name at each scrape."""
    family = copy(_EMPTY[metric.name])
    family.samples = []
    return family


def _labels(metric: Metric) -> list[str]:
    return ["run_id", *metric.labels]


def _unit(metric: Metric) -> str:
    """OpenMetrics allows a unit only where the name ends with it."""
    name = metric.name.removesuffix("_total")
    return metric.unit if name.endswith(f"_{metric.unit}") else ""


_MAKE: Final[dict[MetricType, Callable[[Metric], Family]]] = {
    MetricType.GAUGE: lambda m: GaugeMetricFamily(m.name, m.help, labels=_labels(m), unit=_unit(m)),
    MetricType.COUNTER: lambda m: CounterMetricFamily(
        m.name.removesuffix("_total"), m.help, labels=_labels(m), unit=_unit(m)
    ),
    MetricType.HISTOGRAM: lambda m: HistogramMetricFamily(m.name, m.help, labels=_labels(m), unit=_unit(m)),
    MetricType.INFO: lambda m: InfoMetricFamily(m.name.removesuffix("_info"), m.help, labels=["run_id"]),
}
_EMPTY: Final[dict[str, Family]] = {metric.name: _MAKE[metric.type](metric) for metric in METRICS}


# What prometheus_client cannot encode would cost the whole scrape; float() and _encodable() find it here.


def _add_value(family: Any, labels: list[str], sample: Sample) -> None:
    family.add_metric(labels, float(sample.value))


def _add_counter(family: Any, labels: list[str], sample: Sample) -> None:
    exemplar = sample.exemplar and Exemplar({"trace_id": sample.exemplar[0]}, *sample.exemplar[1:])
    family.add_metric(labels, float(sample.value), exemplar=exemplar or None)


def _add_histogram(family: Any, labels: list[str], sample: Sample) -> None:
    state: HistogramState = sample.value
    buckets: list[tuple[Any, ...]] = []
    cumulative, pending = 0, state.exemplar
    for bound, count in zip((*STEP_DURATION_BUCKETS, float("inf")), state.counts, strict=True):
        cumulative += count
        here = pending if pending is not None and pending[0] <= bound else None
        pending = None if here else pending
        exemplar = Exemplar({"trace_id": here[1]}, here[0], here[2]) if here else None
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), cumulative, exemplar))
    family.add_metric(labels, buckets, sum_value=float(state.total))


def _add_info(family: Any, labels: list[str], sample: Sample) -> None:
    family.add_metric(labels[:1], {key: _encodable(value) for key, value in sample.value.items()})


_ADD: Final[dict[MetricType, Callable[[Any, list[str], Sample], None]]] = {
    MetricType.GAUGE: _add_value,
    MetricType.COUNTER: _add_counter,
    MetricType.HISTOGRAM: _add_histogram,
    MetricType.INFO: _add_info,
}
