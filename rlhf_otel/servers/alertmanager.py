"""An Alertmanager."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from rlhf_otel import yaml_limits
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.http import get, get_json, understood


class Delivery(NamedTuple):
    """Requests to receivers since Alertmanager's start, of some kinds of integrations."""

    accepted: float
    refused: float


class Received(NamedTuple):
    """An alert as Alertmanager has it: where it is routed, and whether a silence or another alert holds it back."""

    receivers: list[str]
    held_back: bool


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """The server at ``url``. Every method raises ServerError where it does not answer as Alertmanager would."""

    url: str

    @understood("an Alertmanager")
    def alert(self, run_id: str) -> Received | None:
        """The first alert about a run; None while there is none."""
        found = get_json(self.url, "/api/v2/alerts", filter=f'run_id="{run_id}"')
        if not isinstance(found, list):
            raise ServerError(f"{self.url}: not the answer of an Alertmanager")
        if not found:
            return None
        return Received(
            [each["name"] for each in found[0]["receivers"]], found[0]["status"]["state"] == "suppressed"
        )

    @understood("an Alertmanager")
    def configuration(self) -> dict[str, Any]:
        """Its configuration, with secrets left out by itself."""
        status = get_json(self.url, "/api/v2/status")
        try:
            return dict(yaml_limits.load(status["config"]["original"]))
        except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise ServerError(f"{self.url}: not the answer of an Alertmanager") from error

    @understood("an Alertmanager")
    def integrations(self, receiver: str) -> list[str]:
        """Kinds of channels that a receiver has, such as ``webhook``."""
        for each in self.configuration().get("receivers", ()):
            if each["name"] == receiver:
                return [key.removesuffix("_configs") for key in each if key.endswith("_configs")]
        return []

    @understood("an Alertmanager")
    def group_wait_s(self, labels: dict[str, str]) -> float:
        """How long an alert with ``labels`` waits for others of its group, in seconds."""
        return seconds(str(route_of(self.configuration()["route"], labels).get("group_wait", "30s")))

    @understood("an Alertmanager")
    def delivery(self, integrations: list[str], receivers: list[str]) -> Delivery:
        """How many requests these integrations made so far: those of ``receivers`` alone where Alertmanager tells them
        apart (``--enable-feature=receiver-name-in-metrics``), else of all."""
        text = get(self.url, "/metrics")
        total, refused = (
            sum(_values(text, f"alertmanager_notification_requests_{what}", integrations, receivers))
            for what in ("total", "failed_total")
        )
        return Delivery(total - refused, refused)


def route_of(route: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    """The first route that an alert with ``labels`` reaches, with what it inherits. Routes are to match by equality,
    as those of :mod:`rlhf_otel.generate.alertmanager` do."""
    for child in route.get("routes", ()):
        if all(_matches(matcher, labels) for matcher in child.get("matchers", ())):
            return route_of({**route, "routes": (), **child}, labels)
    return route


def seconds(duration: str) -> float:
    """Of a duration such as ``1m30s``."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|[smhd])", duration))


def _matches(matcher: str, labels: dict[str, str]) -> bool:
    name, _, value = matcher.partition("=")
    return labels.get(name.strip(), "") == value.strip().strip('"')


def _values(text: str, metric: str, integrations: list[str], receivers: list[str]) -> Iterator[float]:
    for line in text.splitlines():
        if line.startswith(f"{metric}{{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if (
                labels.get("integration") in integrations
                and labels.get("receiver_name", receivers[0]) in receivers
            ):
                yield float(line.rpartition(" ")[2])
