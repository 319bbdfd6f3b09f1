"""What real servers made of real runs: pages and tickets, and what each Prometheus has seen."""

from __future__ import annotations

from typing import Any, NamedTuple

from observing import fetch

from rlhf_otel.demo.receiver import Notification
from rlhf_otel.servers.prometheus import Prometheus, Series


class Watch(NamedTuple):
    """What came of all runs."""

    notifications: list[Notification]
    prometheus: list[str]

    def of(self, run_id: str, receiver: str) -> list[list[str]]:
        """The rules that fired in each notification about a run."""
        return [sorted({alert["labels"]["rule"] for alert in each}) for each in self._sent(run_id, receiver)]

    def page(self, run_id: str) -> dict[str, Any]:
        """The first alert of the first page about a run."""
        found: dict[str, Any] = self._sent(run_id, "page")[0][0]
        return found

    def _sent(self, run_id: str, receiver: str) -> list[list[dict[str, Any]]]:
        return [
            note.firing
            for note in self.notifications
            if note.receiver == receiver and note.firing and note.firing[0]["labels"].get("run_id") == run_id
        ]


def found_by(url: str, query: str) -> list[Series]:
    """What a Prometheus answers."""
    return Prometheus(url).query(query)


def evaluated_at(url: str) -> float:
    """Until when this Prometheus has evaluated all rules; Unix seconds."""
    _, text = fetch("/metrics", url)
    name = "prometheus_rule_group_last_evaluation_timestamp_seconds{"
    return min(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name))
