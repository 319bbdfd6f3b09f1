"""The legs of a page's way: scraped, fired, routed, delivered. Each is waited for, and explains itself where it fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.drill.target import Marked
from rlhf_otel.errors import ServerError
from rlhf_otel.servers.alertmanager import Alertmanager, Delivery
from rlhf_otel.servers.prometheus import Prometheus

ALERT: Final = RULE_BY_NAME["Drill"].alert
POLL_S: Final = 0.5
EARLY_S: Final = 2 * POLL_S
"""By how much a group can be sent before it is due as seen from here: it was made up to a poll before that was seen."""


class Hopeless(Exception):  # noqa: N818 - no error of the drill's
    """Waiting on would not help; the message says why."""


class Leg(NamedTuple):
    """One leg: whether it was reached, seconds since the one before, and what was seen or what is wrong."""

    name: str
    reached: bool
    seconds: float
    said: str


@dataclass(slots=True)
class Drill:
    """A drill that is under way."""

    marked: Marked
    target: str
    prometheus: Prometheus
    alertmanager: Alertmanager | None
    timeout_s: float
    legs: list[Leg] = field(default_factory=list)
    _receivers: list[str] = field(default_factory=list)
    _integrations: list[str] = field(default_factory=list)
    _due: float = 0.0
    _before: Delivery = field(default_factory=lambda: Delivery(0, 0))

    def run(self, tell: Callable[[Leg], None]) -> bool:
        """Wait for leg after leg; True when all were reached."""
        deadline = time.monotonic() + self.timeout_s
        for name, look, explain in (
            ("scraped", self._scraped, self._why_not_scraped),
            ("fired", self._fired, self._why_not_fired),
            ("routed", self._routed, self._why_not_routed),
            ("delivered", self._delivered, self._why_not_delivered),
        ):
            leg = _wait(name, look, explain, deadline)
            self.legs.append(leg)
            tell(leg)
            if not leg.reached:
                return False
        return True

    # --- what is looked for; empty while it is not there

    def _scraped(self) -> str:
        found = self.prometheus.query(f'rlhf_anomaly_active{{rule="Drill",run_id="{self.marked.run_id}"}}')
        return f"{self.prometheus.url} has the series from {self.target}" if found else ""

    def _fired(self) -> str:
        firing = self.prometheus.firing(ALERT, self.marked.run_id)
        return f"{ALERT} fires in Prometheus" if firing else ""

    def _routed(self) -> str:
        pager = self._pager()
        received = pager.alert(self.marked.run_id) if pager is not None else None
        if pager is None or received is None or received.held_back:
            return ""
        self.alertmanager, self._receivers = pager, received.receivers
        self._integrations = sorted({kind for name in self._receivers for kind in pager.integrations(name)})
        self._due = time.monotonic() + pager.group_wait_s(self.marked.labels)
        self._before = pager.delivery(self._integrations, self._receivers)
        return f"{pager.url} routes it to {', '.join(self._receivers)}"

    def _delivered(self) -> str:
        """What is sent before its time is another alert's."""
        assert self.alertmanager is not None
        if not self._integrations:
            raise Hopeless(
                f"{', '.join(self._receivers)}: a receiver without any channel; nobody is told (docs/paging.md says how)"
            )
        found = self.alertmanager.delivery(self._integrations, self._receivers)
        if time.monotonic() < self._due - EARLY_S:
            self._before = found
        if found.accepted <= self._before.accepted:
            return ""
        return f"accepted by {', '.join(self._integrations)}; see that it arrived there"

    def _pager(self) -> Alertmanager | None:
        if self.alertmanager is not None:
            return self.alertmanager
        known = self.prometheus.alertmanagers()
        return Alertmanager(known[0]) if known else None

    # --- why it is not there

    def _why_not_scraped(self) -> str:
        port = self.target.rpartition(":")[2]
        mine = [target for target in self.prometheus.targets() if f":{port}/" in target.url]
        if not mine:
            return (
                f"{self.prometheus.url} has no target with port {port}: give --port or --file-sd as its scrape "
                "configuration has it"
            )
        return (
            f"{mine[0].url} is a target, but: {mine[0].error or 'not scraped yet; wait longer (--timeout)'}"
        )

    def _why_not_fired(self) -> str:
        rules = self.prometheus.alerting_rules()
        if ALERT not in rules:
            return f"{self.prometheus.url} has no rule {ALERT}: load alerts/rlhf.rules.yaml (rule_files) and reload it"
        return rules[ALERT] or "the rule is there; wait longer (--timeout)"

    def _why_not_routed(self) -> str:
        pager = self._pager()
        if pager is None:
            return f"{self.prometheus.url} knows no Alertmanager: see alerting.alertmanagers in its configuration"
        received = pager.alert(self.marked.run_id)
        if received is None:
            return f"{pager.url} did not get the alert; does {self.prometheus.url} send to another one (--alertmanager)?"
        return f"{pager.url} holds it back: a silence, or an alert that explains it away"

    def _why_not_delivered(self) -> str:
        assert self.alertmanager is not None
        refused = (
            self.alertmanager.delivery(self._integrations, self._receivers).refused - self._before.refused
        )
        if refused:
            return f"{', '.join(self._integrations)} refused {refused:.0f} requests: see Alertmanager's log"
        return "nothing was sent yet: group_wait may be longer than --timeout"


def _wait(name: str, look: Callable[[], str], explain: Callable[[], str], deadline: float) -> Leg:
    began = time.monotonic()
    trouble = ""
    while True:
        try:
            trouble, said = "", look()
        except ServerError as error:
            trouble, said = str(error), ""
        except Hopeless as reason:
            return Leg(name, False, time.monotonic() - began, str(reason))
        waited = time.monotonic() - began
        if said:
            return Leg(name, True, waited, said)
        if time.monotonic() > deadline:
            return Leg(name, False, waited, trouble or _explained(explain))
        time.sleep(POLL_S)


def _explained(explain: Callable[[], str]) -> str:
    try:
        return explain()
    except ServerError as error:
        return str(error)
