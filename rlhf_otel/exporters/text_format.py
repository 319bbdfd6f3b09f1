"""Prometheus's two text formats, of families whose names need no escaping: the same bytes as prometheus_client's.

prometheus_client looks at each character of each name at each scrape, which is half of its time. Names from the
catalogue are letters, digits and underscores, and a run's labels hardly change, so that they are escaped once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

MAX_LABELS: Final = 4096
"""Labels that are kept escaped: ten times those of a run."""

_number: Final[Callable[[float], str]] = floatToGoString
"""It has no types."""
_TEXT_NAMES: Final = {"counter": "_total", "info": "_info"}
"""The older format has no counters without a suffix, and no infos, which it calls gauges."""


def encode(families: Iterable[Family], openmetrics: bool) -> bytes:
    """OpenMetrics, with exemplars; or the older text format, which has none.

    Families are gauges, counters, histograms and infos. Each sample has a label, but no timestamp and no time of creation;
    each exemplar has a timestamp.
    """
    parts: list[str] = []
    for family in families:
        parts.append(_openmetrics_head(family) if openmetrics else _text_head(family))
        for sample in family.samples:
            exemplar = _exemplar(sample.exemplar) if openmetrics and sample.exemplar else ""
            labels = ",".join([_label(*label) for label in sorted(sample.labels.items())])
            parts.append(f"{sample.name}{{{labels}}} {_number(sample.value)}{exemplar}\n")
    if openmetrics:
        parts.append("# EOF\n")
    return "".join(parts).encode()


def _openmetrics_head(family: Family) -> str:
    unit = f"# UNIT {family.name} {family.unit}\n" if family.unit else ""
    return (
        f"# HELP {family.name} {_escaped(family.documentation)}\n# TYPE {family.name} {family.type}\n{unit}"
    )


def _text_head(family: Family) -> str:
    name = family.name + _TEXT_NAMES.get(family.type, "")
    kind = "gauge" if family.type == "info" else family.type
    documentation = family.documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"


def _exemplar(exemplar: Exemplar) -> str:
    labels = ",".join([_label(*label) for label in sorted(exemplar.labels.items())])
    return f" # {{{labels}}} {_number(exemplar.value)} {exemplar.timestamp}"


@lru_cache(MAX_LABELS)
def _label(name: str, value: str) -> str:
    return f'{name}="{_escaped(value)}"'


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
