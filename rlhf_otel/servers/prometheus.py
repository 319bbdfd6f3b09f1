"""A Prometheus server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_otel.errors import ServerError
from rlhf_otel.servers.http import get_json, understood


class Series(NamedTuple):
    """One element of an instant vector."""

    labels: dict[str, str]
    value: float


class Target(NamedTuple):
    """An active target: its URL, labels, and the error of its last scrape (empty where it succeeded)."""

    url: str
    labels: dict[str, str]
    up: bool
    error: str


@dataclass(frozen=True, slots=True)
class Prometheus:
    """The server at ``url``. Every method raises ServerError where it does not answer as Prometheus would."""

    url: str

    @understood("a Prometheus")
    def query(self, expression: str) -> list[Series]:
        """The instant vector that ``expression`` is now."""
        found = self._data("/api/v1/query", query=expression)["result"]
        return [Series(each["metric"], float(each["value"][1])) for each in found]

    @understood("a Prometheus")
    def targets(self) -> list[Target]:
        """What it scrapes."""
        found = self._data("/api/v1/targets", state="active")["activeTargets"]
        return [
            Target(each["scrapeUrl"], each["labels"], each["health"] == "up", each["lastError"])
            for each in found
        ]

    @understood("a Prometheus")
    def alerting_rules(self) -> dict[str, str]:
        """Alert name to the error of its last evaluation; of those with several rules, the first error."""
        found: dict[str, str] = {}
        for group in self._data("/api/v1/rules", type="alert")["groups"]:
            for rule in group["rules"]:
                found[rule["name"]] = found.get(rule["name"]) or rule.get("lastError", "")
        return found

    @understood("a Prometheus")
    def recording_rules(self) -> set[str]:
        """Names of the series that it records."""
        groups = self._data("/api/v1/rules", type="record")["groups"]
        return {rule["name"] for group in groups for rule in group["rules"]}

    @understood("a Prometheus")
    def firing(self, alert: str, run_id: str) -> bool:
        """Whether the alert fires for the run; asked of the rules themselves, since a Prometheus that has just started
        records ``ALERTS`` an evaluation later."""
        found = self._data("/api/v1/alerts")["alerts"]
        return any(
            each["state"] == "firing"
            and (each["labels"]["alertname"], each["labels"].get("run_id")) == (alert, run_id)
            for each in found
        )

    @understood("a Prometheus")
    def alertmanagers(self) -> list[str]:
        """Addresses of the Alertmanagers that it sends alerts to."""
        found = self._data("/api/v1/alertmanagers")["activeAlertmanagers"]
        return [each["url"].partition("/api/")[0] for each in found]

    @understood("a Prometheus")
    def features(self) -> list[str]:
        """What ``--enable-feature`` switched on."""
        return str(self._data("/api/v1/status/flags").get("enable-feature", "")).split(",")

    @understood("a Prometheus")
    def time(self) -> float:
        """Its clock, Unix seconds."""
        return float(self._data("/api/v1/query", query="time()")["result"][1])

    def _data(self, path: str, **query: str) -> Any:
        answer = get_json(self.url, path, **query)
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise ServerError(f"{self.url}{path}: not the answer of a Prometheus")
        return answer["data"]
