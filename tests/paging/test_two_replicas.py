"""A cause and its effect through two real Prometheus replicas: whichever fires first, one page, and no ticket after it.

What is scraped is what a run exposes when a rule's verdict begins and ends; ``test_inhibition.py`` sends alerts itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from alerting import quiet, told
from otlp_receiver import wait_until

from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program
from rlhf_otel.servers.prometheus import Prometheus

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]

SOURCE, EFFECT = "NonFinite", "LossSpike"
GROUP_WAIT_S = 3.0
"""Of the one-second variant of the configuration."""
QUIET_S = 3 * GROUP_WAIT_S
WITHIN_S = 90.0
RUNS = ("effect-first", "source-first", "at-once")


class Exposed:
    """An endpoint that exposes the verdicts of several runs, as many as ``active`` has."""

    def __init__(self) -> None:
        self.active: set[tuple[str, str]] = set()
        self._known = [(run_id, rule) for run_id in RUNS for rule in (SOURCE, EFFECT)]

    def text(self) -> bytes:
        """Every rule of every run, as a run does: 0 while it is silent."""
        lines = ["# TYPE rlhf_anomaly_active gauge"]
        for run_id, rule in self._known:
            labels = f'run_id="{run_id}",rule="{rule}",severity="{RULE_BY_NAME[rule].severity}"'
            lines.append(f"rlhf_anomaly_active{{{labels}}} {int((run_id, rule) in self.active)}")
        return "\n".join(lines).encode() + b"\n"

    @contextmanager
    def served(self) -> Iterator[str]:
        """At ``host:port``."""
        exposed = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = exposed.text()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class Paging(NamedTuple):
    """What is exposed, who evaluates it, and what came of it."""

    exposed: Exposed
    replicas: list[Prometheus]
    receiver: Receiver

    def told(self, receiver: str, run_id: str) -> list[list[str]]:
        """The rules in each notification about a run."""
        return told(self.receiver.notifications, receiver, run_id)

    def begin(self, run_id: str, *rules: str) -> None:
        """Let rules fire, and wait until both replicas have seen it."""
        self.exposed.active |= {(run_id, rule) for rule in rules}
        self._both([RULE_BY_NAME[rule].alert for rule in rules], run_id, True)

    def end(self, run_id: str) -> None:
        """Let all its rules fall silent, and wait until both replicas have seen it."""
        self.exposed.active -= {(run_id, rule) for rule in (SOURCE, EFFECT)}
        self._both([RULE_BY_NAME[rule].alert for rule in (SOURCE, EFFECT)], run_id, False)

    def _both(self, alerts: list[str], run_id: str, firing: bool) -> None:
        wait_until(
            lambda: all(
                replica.firing(alert, run_id) is firing for replica in self.replicas for alert in alerts
            ),
            WITHIN_S,
        )


@pytest.fixture(scope="module")
def paging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paging]:
    """All three runs, from their first verdict until after their last."""
    folder: Path = tmp_path_factory.mktemp("replicas")
    receiver, exposed = Receiver(folder / "traces"), Exposed()
    with exposed.served() as target:
        servers = Servers(folder, [target], receiver.start())
        try:
            servers.start()
            found = Paging(exposed, [Prometheus(server.url) for server in servers.prometheus], receiver)
            assert len(found.replicas) == 2
            wait_until(lambda: all(replica.alertmanagers() for replica in found.replicas), WITHIN_S)

            found.begin("effect-first", EFFECT)
            found.begin("source-first", SOURCE)
            found.begin("at-once", SOURCE, EFFECT)
            wait_until(lambda: found.told("ticket", "effect-first"), WITHIN_S)  # flushed before its source
            wait_until(lambda: found.told("page", "source-first"), WITHIN_S)
            found.begin("effect-first", SOURCE)
            found.begin("source-first", EFFECT)
            wait_until(lambda: found.told("page", "effect-first") and found.told("page", "at-once"), WITHIN_S)
            quiet(QUIET_S)
            for run_id in RUNS:
                found.end(run_id)
            quiet(QUIET_S)
            yield found
        finally:
            servers.stop()
            receiver.stop()


@pytest.mark.parametrize("run_id", RUNS)
def test_one_page_and_it_names_the_source(paging: Paging, run_id: str) -> None:
    """From both replicas together, and not again as the effect joins or as both end."""
    assert paging.told("page", run_id) == [[SOURCE]]


def test_an_effect_that_was_flushed_before_its_source_was_one_ticket(paging: Paging) -> None:
    assert paging.told("ticket", "effect-first") == [[EFFECT]]


@pytest.mark.parametrize("run_id", ["source-first", "at-once"])
def test_an_effect_of_a_known_source_is_no_ticket(paging: Paging, run_id: str) -> None:
    """Not either when both end: the source keeps firing longer than its effects."""
    assert paging.told("ticket", run_id) == []
