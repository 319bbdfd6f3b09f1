"""Prometheus's two text formats, of families whose names need no escaping: the same bytes as prometheus_client's.

prometheus_client looks at each character of each name at each scrape, which is half of its time. Names from the
catalogue are letters, digits and underscores, and a run's labels hardly change, so that they become text once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

MAX_LABELS: Final = 4096
"""Sets of labels that are kept as text: ten times those of a run."""
MAX_FAMILIES: Final = 512
"""Heads of families that are kept: more than there are."""

_any_number: Final[Callable[[float], str]] = floatToGoString
"""It has no types."""
_TEXT_NAMES: Final = {"counter": "_total", "info": "_info"}
"""The older format has no counters without a suffix, and no infos, which it calls gauges."""


def encode(families: Iterable[Family], openmetrics: bool) -> bytes:
    """OpenMetrics, with exemplars; or the older text format, which has none.

    Families are gauges, counters, histograms and infos. Each sample has a label, but no timestamp and no time of creation;
    each exemplar has a timestamp.
    """
    parts: list[str] = []
    head = _openmetrics_head if openmetrics else _text_head
    for family in families:
        parts.append(head(family.name, family.documentation, family.type, family.unit))
        for sample in family.samples:
            exemplar = _exemplar(sample.exemplar) if openmetrics and sample.exemplar else ""
            labels = _labels(tuple(sample.labels.items()))
            parts.append(f"{sample.name}{{{labels}}} {_number(sample.value)}{exemplar}\n")
    if openmetrics:
        parts.append("# EOF\n")
    return "".join(parts).encode()


def _number(value: float) -> str:
    """Python and Go write most numbers alike."""
    return repr(value) if type(value) is float and 1e-4 <= value < 1e6 else _any_number(value)


@lru_cache(MAX_FAMILIES)
def _openmetrics_head(name: str, documentation: str, kind: str, unit: str) -> str:
    unit_line = f"# UNIT {name} {unit}\n" if unit else ""
    return f"# HELP {name} {_escaped(documentation)}\n# TYPE {name} {kind}\n{unit_line}"


@lru_cache(MAX_FAMILIES)
def _text_head(name: str, documentation: str, kind: str, unit: str) -> str:
    name += _TEXT_NAMES.get(kind, "")
    kind = "gauge" if kind == "info" else kind
    documentation = documentation.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {documentation}\n# TYPE {name} {kind}\n"


def _exemplar(exemplar: Exemplar) -> str:
    labels = _labels.__wrapped__(tuple(exemplar.labels.items()))  # there will not be the same again
    return f" # {{{labels}}} {_number(exemplar.value)} {exemplar.timestamp}"


@lru_cache(MAX_LABELS)
def _labels(items: tuple[tuple[str, str], ...]) -> str:
    return ",".join([f'{name}="{_escaped(value)}"' for name, value in sorted(items)])


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
