"""Prometheus recording rules."""

from __future__ import annotations

import json
from typing import Any, Final

from rlhf_otel.catalogue.recorded import RECORDED
from rlhf_otel.detection.promql import RANGE_SCRAPES, Timing, select
from rlhf_otel.generate.yaml_text import dump

MIXIN_SELECTOR: Final = "$(selector)"
"""What the mixin replaces by its user's matchers."""


def groups(timing: Timing, selector: str = "") -> list[dict[str, Any]]:
    """All recording rules, in one group; ``selector`` narrows every series that they read."""
    window = timing.duration(RANGE_SCRAPES)
    rules = [
        {"record": recorded.name, "expr": select(recorded.expression.replace("$range", window), selector)}
        for recorded in RECORDED
    ]
    return [{"name": "rlhf-recording", "rules": rules}]


def recording_file(timing: Timing, selector: str = "") -> str:
    """Them as YAML."""
    return dump({"groups": groups(timing, selector)})


def mixin_file(timing: Timing) -> str:
    """Them as JSON, for ``alerts/mixin``, which replaces the selector."""
    return json.dumps({"groups": groups(timing, MIXIN_SELECTOR)}, indent=1) + "\n"
