"""The report as JSON, for programs."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from rlhf_otel.replay.engine import ReplayedAnomaly
from rlhf_otel.replay.reports.wording import Report, notes

VERSION: Final = 1
"""A change that breaks readers raises it."""


def as_json(report: Report) -> str:
    """An object. Numbers that are not finite are the strings ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    replay, log = report.replay, report.log
    content = {
        "version": VERSION,
        "path": str(log.path),
        "format": log.format,
        "run_id": log.identity.run_id,
        "algorithm": log.identity.algorithm,
        "timestamps": log.timed,
        "steps": replay.steps,
        "first_step": replay.first_step if replay.steps else None,
        "last_step": replay.last_step if replay.steps else None,
        "anomalies": [_finite(found.as_dict()) for found in report.anomalies],
        "not_judged": [{"reason": reason.reason, "rules": list(reason.rules)} for reason in report.unjudged],
        "notes": notes(report),
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def json_line(found: ReplayedAnomaly) -> str:
    """One anomaly as an object in one line."""
    return json.dumps(_finite(found.as_dict()), allow_nan=False)


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _number(value) if isinstance(value, float) else value for key, value in values.items()}


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
