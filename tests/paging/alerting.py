"""A real Alertmanager and what is needed to send it alerts."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.demo.receiver import Notification


def alert(
    rule: str,
    run_id: str = "r",
    engine: str = "verdict",
    annotations: Mapping[str, str] | None = None,
    **labels: str,
) -> dict[str, Any]:
    """An alert as Prometheus sends it."""
    known = RULE_BY_NAME[rule]
    own = {
        "alertname": known.alert,
        "severity": known.severity.value,
        "rule": rule,
        "run_id": run_id,
        "engine": engine,
    }
    said = {"summary": f"Run {run_id}: {known.summary}", **(annotations or {})}
    return {"labels": {**own, **labels}, "annotations": said, "startsAt": datetime.now(UTC).isoformat()}


def send(url: str, *alerts: Mapping[str, Any]) -> None:
    """Hand alerts to the Alertmanager at ``url``."""
    request = urllib.request.Request(
        f"{url}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def told(notifications: list[Notification], receiver: str, run_id: str) -> list[list[str]]:
    """The rules in each notification about a run."""
    return [
        sorted({each["labels"]["rule"] for each in note.firing})
        for note in notifications
        if note.receiver == receiver and note.firing and note.firing[0]["labels"].get("run_id") == run_id
    ]


def quiet(seconds: float) -> None:
    """Let time pass in which something must not come."""
    time.sleep(seconds)
