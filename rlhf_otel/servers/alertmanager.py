"""An Alertmanager."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from rlhf_otel.errors import ServerError
from rlhf_otel.servers.http import get, get_json


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

    def configuration(self) -> dict[str, Any]:
        """Its configuration, with secrets left out by itself."""
        status = get_json(self.url, "/api/v2/status")
        try:
            return dict(yaml.safe_load(status["config"]["original"]))
        except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
            raise ServerError(f"{self.url}: not the answer of an Alertmanager") from error

    def integrations(self, receiver: str) -> list[str]:
        """Kinds of channels that a receiver has, such as ``webhook``."""
        for each in self.configuration().get("receivers", ()):
            if each["name"] == receiver:
                return [key.removesuffix("_configs") for key in each if key.endswith("_configs")]
        return []

    def delivery(self, integrations: list[str]) -> Delivery:
        """How many requests these integrations made so far."""
        text = get(self.url, "/metrics")
        total, refused = (
            sum(_value(text, f"alertmanager_notification_requests_{what}", kind) for kind in integrations)
            for what in ("total", "failed_total")
        )
        return Delivery(total - refused, refused)


def _value(text: str, metric: str, integration: str) -> float:
    found = re.findall(rf'^{metric}{{[^}}]*integration="{integration}"[^}}]*}} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))
