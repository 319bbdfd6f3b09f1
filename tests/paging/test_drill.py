"""A drill through a real Prometheus and a real Alertmanager, what it says where the way is broken, and the alert about a
target that is registered and never scraped."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from alerting import told
from click.testing import CliRunner, Result
from otlp_receiver import free_port, wait_until

from rlhf_otel.cli import commands
from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program
from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import DrillError
from rlhf_otel.generate import alertmanager, paging
from rlhf_otel.servers.alertmanager import _values, route_of, seconds

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]


WITHIN_S = 60.0


class Watched(NamedTuple):
    """Servers, and what they deliver to."""

    servers: Servers
    receiver: Receiver
    targets: Path

    @property
    def prometheus(self) -> str:
        return self.servers.prometheus[0].url


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("drill")
    targets = folder / "targets"
    targets.mkdir()
    receiver = Receiver(folder / "traces")
    url = receiver.start()
    base = paging.local(url)
    who = base.model_copy(
        update={
            "teams": {
                "silent": paging.Audience.model_validate({"page": [{"webhook": "http://localhost:9/nobody"}]})
            }
        }
    )
    servers = Servers(folder, [], url, replicas=1, file_sd=[f"{targets}/*.json"], who=who)
    try:
        servers.start()
        # Its first beat, the next one comes in five minutes: before 0.26 Alertmanager counts all webhooks together.
        wait_until(lambda: any(note.receiver == "watchdog" for note in receiver.notifications), WITHIN_S)
        yield Watched(servers, receiver, targets)
    finally:
        servers.stop()
        receiver.stop()


def drill(*arguments: str) -> Result:
    return CliRunner().invoke(commands, ["drill", *arguments])


def test_all_the_way(watched: Watched) -> None:
    done = drill(
        "--prometheus", watched.prometheus, "--file-sd", str(watched.targets), "--json", "--timeout", "90"
    )
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.output)
    assert [leg["name"] for leg in report["legs"] if leg["reached"]] == [
        "scraped",
        "fired",
        "routed",
        "delivered",
    ]
    assert "routes it to page" in report["legs"][2]["said"]
    assert told(watched.receiver.notifications, "page", report["run_id"]) == [["Drill"]]
    page = next(note for note in watched.receiver.notifications if note.receiver == "page")
    assert "this is a drill" in page.firing[0]["annotations"]["summary"]
    assert list(watched.targets.iterdir()) == []  # nothing is left behind


@pytest.mark.slow
def test_a_registered_target_that_nobody_can_scrape_is_a_ticket(watched: Watched) -> None:
    """Held for 20 scrapes, which are 20 seconds here; a page would be false, since training may well go on."""
    labels = {"run_id": "unseen", "rank": "0", "team": "alignment"}
    entry = [{"targets": [f"localhost:{free_port()}"], "labels": labels}]
    (watched.targets / "unseen-0.json").write_text(json.dumps(entry))
    try:
        wait_until(lambda: told(watched.receiver.notifications, "ticket", "unseen"), WITHIN_S)
    finally:
        (watched.targets / "unseen-0.json").unlink()
    assert told(watched.receiver.notifications, "ticket", "unseen") == [["TargetsMissing"]]
    assert told(watched.receiver.notifications, "page", "unseen") == []


@pytest.mark.slow
def test_a_receiver_that_refuses(watched: Watched) -> None:
    done = drill(
        *("--prometheus", watched.prometheus, "--file-sd", str(watched.targets)),
        *("--team", "silent", "--timeout", "30"),
    )
    assert done.exit_code == 1
    assert "NOT delivered" in done.output
    assert "silent-page" in done.output
    assert "refused" in done.output


def test_a_target_that_nobody_scrapes(watched: Watched) -> None:
    done = drill("--prometheus", watched.prometheus, "--port", str(free_port()), "--timeout", "1")
    assert done.exit_code == 1
    assert "NOT scraped" in done.output
    assert "has no target with port" in done.output


def test_a_prometheus_that_is_not_there() -> None:
    done = drill("--prometheus", f"http://localhost:{free_port()}", "--port", "0", "--timeout", "0.1")
    assert done.exit_code == 1
    assert "refused" in done.output


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("localhost", 0)) as taken:
        done = drill("--port", str(taken.getsockname()[1]))
    assert isinstance(done.exception, DrillError)
    assert "--file-sd" in str(done.exception)


def test_requests_are_counted_by_receiver_where_alertmanager_tells_them_apart() -> None:
    text = """
alertmanager_notification_requests_total{integration="webhook",receiver_name="page"} 2
alertmanager_notification_requests_total{integration="webhook",receiver_name="watchdog"} 7
alertmanager_notification_requests_total{integration="slack",receiver_name="page"} 4
"""
    assert list(_values(text, "alertmanager_notification_requests_total", ["webhook"], ["page"])) == [2.0]
    plain = text.replace(',receiver_name="page"', "").replace(',receiver_name="watchdog"', "")
    assert list(_values(plain, "alertmanager_notification_requests_total", ["webhook"], ["page"])) == [
        2.0,
        7.0,
    ]


def test_a_route_inherits_its_wait() -> None:
    route = yaml.safe_load(alertmanager.config_file(Timing(), paging.EXAMPLE))["route"]
    found = route_of(route, {"severity": "critical", "team": "alignment"})
    assert found["receiver"] == "alignment-page"
    assert seconds(found["group_wait"]) == 45.0
    assert seconds("1m30s") == 90.0
