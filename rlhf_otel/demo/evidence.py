"""What the demo can prove afterwards: read from the journal, from Prometheus, from the receiver and from the fault."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_otel.catalogue.rules import FINISHED
from rlhf_otel.demo.faults import read_record
from rlhf_otel.demo.receiver import Notification
from rlhf_otel.detection.waste import WasteTotals
from rlhf_otel.errors import JournalError
from rlhf_otel.exporters.journal import read_journal

NO_NEWS = ("Watchdog", FINISHED)
"""Rules that fire in every run."""


@dataclass(slots=True)
class Evidence:
    """A demo run, as its own instruments saw it. Times are Unix seconds."""

    fault: str
    injected_step: int | None = None
    injected_s: float | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    anomalies: list[dict[str, Any]] = field(default_factory=list)
    waste: WasteTotals = field(default_factory=WasteTotals)
    end: dict[str, Any] | None = None
    alerts: dict[tuple[str, str], float] = field(default_factory=dict)
    """Rule and engine to the time at which Prometheus first had the alert firing."""
    notifications: list[Notification] = field(default_factory=list)
    spans: list[dict[str, Any]] = field(default_factory=list)

    @property
    def pages(self) -> list[Notification]:
        """Notifications that would have woken somebody up."""
        return [note for note in self.notifications if note.receiver == "page" and note.firing]

    @property
    def tickets(self) -> list[Notification]:
        """Notifications for working hours."""
        return [note for note in self.notifications if note.receiver == "ticket" and note.firing]

    def rules(self) -> list[str]:
        """Rules that fired in any engine, in the order of their first firing."""
        first: dict[str, float] = {}
        for anomaly in self.anomalies:
            first.setdefault(anomaly["rule"], anomaly["time"])
        for (rule, _), moment in self.alerts.items():
            first[rule] = min(moment, first.get(rule, moment))
        return sorted(first, key=lambda rule: first[rule])


def read_fault(run_dir: Path, evidence: Evidence) -> None:
    """When and where the fault was injected, from the record that the injector wrote."""
    record = read_record(run_dir)
    if record is not None:
        evidence.injected_step, evidence.injected_s = record.step, record.time


def read_run(journal: Path, evidence: Evidence) -> None:
    """Steps, anomalies and end, from the journal."""
    with contextlib.suppress(JournalError):
        for record in read_journal(journal):
            evidence.waste.add_record(record)
            if record["type"] == "step":
                evidence.steps.append(record)
            elif record["type"] == "anomaly":
                evidence.anomalies.append(record)
            elif record["type"] == "end":
                evidence.end = record


def read_alerts(prometheus_url: str, start_s: float, end_s: float, evidence: Evidence) -> None:
    """First firing of every alert, from Prometheus' own record of it."""
    query = urllib.parse.urlencode(
        {
            "query": f'ALERTS{{alertstate="firing", alertname!~"RLHF({"|".join(NO_NEWS)})"}}',
            "start": f"{start_s:.3f}",
            "end": f"{end_s:.3f}",
            "step": "1",
        }
    )
    try:
        with urllib.request.urlopen(f"{prometheus_url}/api/v1/query_range?{query}", timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
    except (urllib.error.URLError, KeyError, ValueError):
        return
    for series in found:
        key = (series["metric"]["rule"], series["metric"]["engine"])
        first = float(series["values"][0][0])
        evidence.alerts[key] = min(first, evidence.alerts.get(key, first))
