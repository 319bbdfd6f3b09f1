"""Prometheus recording rules."""

from __future__ import annotations

import json
from typing import Any

from rlhf_otel.catalogue.recorded import RECORDED
from rlhf_otel.detection.promql import RANGE_SCRAPES, Timing
from rlhf_otel.generate.yaml_text import dump


def groups(timing: Timing) -> list[dict[str, Any]]:
    """All recording rules, in one group."""
    window = timing.duration(RANGE_SCRAPES)
    rules = [
        {"record": recorded.name, "expr": recorded.expression.replace("$range", window)}
        for recorded in RECORDED
    ]
    return [{"name": "rlhf-recording", "rules": rules}]


def recording_file(timing: Timing) -> str:
    """Them as YAML."""
    return dump({"groups": groups(timing)})


def mixin_file(timing: Timing) -> str:
    """Them as JSON, for ``alerts/mixin``."""
    return json.dumps({"groups": groups(timing)}, indent=1) + "\n"
