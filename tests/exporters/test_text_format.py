"""Text formats: byte for byte what prometheus_client writes, whatever the labels and values are."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

sys.path.insert(0, str(Path(__file__).parent.parent))
from views import complete_view, grpo_view

from rlhf_otel.catalogue.metrics import METRICS
from rlhf_otel.exporters.endpoint import _choose_encoder
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.exporters.text_format import encode

VIEWS = [complete_view(), grpo_view(), grpo_view(rank=3)]
NAMES = st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,20}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ['\\"', "\\n", "\n", "a\\", "{}", ",=#", "größer 🦙", "\x00\r\u2028"]
)
VALUES = (
    st.floats()
    | st.integers(-(2**60), 2**60)
    | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 1e6, 1e21])
)
EXEMPLARS = st.none() | st.builds(
    Exemplar, st.dictionaries(NAMES, TEXTS, max_size=2), VALUES, st.floats(0, 2e9)
)


class Given(Collector):
    """Collects what it is given."""

    def __init__(self, *families: Family) -> None:
        self.families = families

    def collect(self) -> Iterator[Family]:
        yield from self.families


@st.composite
def families(draw: st.DrawFn) -> Family:
    """One of the four kinds that the catalogue has, with some samples."""
    name, help_text, labels = (
        draw(NAMES),
        draw(TEXTS),
        draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)),
    )
    series = st.lists(st.lists(TEXTS, min_size=len(labels), max_size=len(labels)), max_size=3)
    unit = draw(st.sampled_from(["", "seconds"]))
    kind = draw(st.sampled_from(["gauge", "counter", "histogram", "info"]))
    if kind == "gauge":
        gauge = GaugeMetricFamily(name, help_text, labels=labels, unit=unit)
        for values in draw(series):
            gauge.add_metric(values, draw(VALUES))
        return gauge
    if kind == "counter":
        counter = CounterMetricFamily(name, help_text, labels=labels, unit=unit)
        for values in draw(series):
            counter.add_metric(values, draw(VALUES), exemplar=draw(EXEMPLARS))
        return counter
    if kind == "histogram":
        histogram = HistogramMetricFamily(name, help_text, labels=labels, unit=unit)
        for values in draw(series):
            buckets = [(bound, draw(VALUES), draw(EXEMPLARS)) for bound in ("0.1", "2.5", "+Inf")]
            histogram.add_metric(values, buckets, sum_value=draw(VALUES))
        return histogram
    info = InfoMetricFamily(name, help_text, labels=labels[:1])
    for values in draw(series):
        info.add_metric(values[:1], draw(st.dictionaries(NAMES, TEXTS, max_size=3)))
    return info


@given(st.lists(families(), max_size=4))
def test_any_families_are_encoded_as_prometheus_client_does(given_families: list[Family]) -> None:
    collector = Given(*given_families)
    assert encode(given_families, openmetrics=True) == openmetrics.generate_latest(collector)
    assert encode(given_families, openmetrics=False) == generate_latest(collector)


@pytest.mark.parametrize("view", VIEWS, ids=["all", "grpo", "rank 3"])
@pytest.mark.parametrize(
    "accept",
    [
        "",
        "text/plain;version=0.0.4",
        "text/plain;version=1.0.0;escaping=allow-utf-8",
        "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6",
        "application/openmetrics-text;version=2.0.0;escaping=underscores",
        "application/openmetrics-text;version=1.0.0;escaping=dots",
        "application/openmetrics-text;version=1.0.0;escaping=values",
        "text/plain;version=1.0.0;escaping=dots",
    ],
)
def test_whatever_a_client_accepts_it_gets_what_prometheus_client_would_send(
    view: object, accept: str
) -> None:
    collector = RunsCollector(lambda: [view])  # type: ignore[list-item]
    (fast, content_type), (slow, expected_type) = _choose_encoder(accept, True), choose_encoder(accept)
    assert content_type == expected_type
    assert fast(collector) == slow(collector)


def test_a_collector_of_somebody_else_is_left_to_prometheus_client() -> None:
    encoder, _ = _choose_encoder("", False)
    assert getattr(encoder, "func", encoder) is generate_latest
    assert isinstance(_choose_encoder("text/plain;version=1.0.0", False)[0], partial)


def test_the_names_of_the_catalogue_are_plain() -> None:
    assert RunsCollector.plain_names
    for metric in METRICS:
        for name in (metric.name, *metric.labels):
            assert name.isascii(), name
            assert name.isidentifier(), name
