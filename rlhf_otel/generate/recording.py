"""Prometheus recording rules."""

from __future__ import annotations

from rlhf_otel.catalogue.recorded import RECORDED
from rlhf_otel.detection.promql import RANGE_SCRAPES, Timing
from rlhf_otel.generate.yaml_text import dump


def recording_file(timing: Timing) -> str:
    """All recording rules in one group, as YAML."""
    window = timing.duration(RANGE_SCRAPES)
    rules = [
        {"record": recorded.name, "expr": recorded.expression.replace("$range", window)}
        for recorded in RECORDED
    ]
    return dump({"groups": [{"name": "rlhf-recording", "rules": rules}]})
