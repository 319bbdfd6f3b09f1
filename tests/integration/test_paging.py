"""Who is woken up: real runs, two real Prometheus replicas and a real Alertmanager with what we generate.

All runs are watched at once, since most of the time goes into waiting for what must not come.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from observing import fetch
from otlp_receiver import free_port, wait_until
from pages import Watch, evaluated_at, found_by
from processes import Nursery, Training
from scenarios import STRIKES

from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]

STATUS = {"finish": 0, "nan_reward": 0, "exception": 1, "terminate": -15, "kill": -9}
"""Scenario, which is its run's id too, to the exit status of its process."""
FROZEN, RESUMED = "frozen", "resumed"
"""A run whose endpoint does not answer for a while; one that is pre-empted and goes on elsewhere."""
FREEZE_S = 3.0
"""Longer than the timeout of two scrapes, shorter than a run that is gone."""
PAGED = {"nan_reward": "NonFinite", "exception": "RunFailed", "kill": "RunGone"}
SILENT = ("finish", "terminate", FROZEN, RESUMED)
WITHIN_S = 90.0
QUIET_S = 20
"""After the end, in the time of Prometheus' evaluations: a run counts as gone after 8 s here, and Alertmanager
waits for 3 s."""


@pytest.fixture(scope="module")
def watch(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """All runs, trained and watched to their ends and for a while after."""
    folder = tmp_path_factory.mktemp("watch")
    receiver = Receiver(folder / "traces")
    ports = {name: free_port() for name in (*STATUS, FROZEN, RESUMED, f"{RESUMED} elsewhere")}
    servers = Servers(folder, [f"localhost:{port}" for port in ports.values()], receiver.start())
    try:
        servers.start()
        trainings = {scenario: start(nursery, scenario, folder, ports[scenario]) for scenario in STATUS}
        frozen = start(nursery, "finish", folder, ports[FROZEN], FROZEN)
        resumed = start(nursery, "terminate", folder, ports[RESUMED], RESUMED)
        ask_once(trainings["finish"])
        freeze(frozen)
        assert resumed.wait() == STATUS["terminate"], resumed.output
        resumed = start(nursery, "finish", folder / "elsewhere", ports[f"{RESUMED} elsewhere"], RESUMED)
        assert [frozen.wait(), resumed.wait()] == [0, 0]
        for scenario, training in trainings.items():
            assert training.wait() == STATUS[scenario], training.output
        ended = time.time()
        found = Watch(receiver.notifications, [server.url for server in servers.prometheus])
        wait_until(lambda: all(found.of(run_id, "page") for run_id in PAGED), WITHIN_S)
        wait_until(lambda: min(map(evaluated_at, found.prometheus)) > ended + QUIET_S, WITHIN_S)
        yield found
    finally:
        servers.stop()
        receiver.stop()


def start(nursery: Nursery, scenario: str, folder: Path, port: int, run_id: str | None = None) -> Training:
    place = folder / (run_id or scenario)
    place.mkdir(parents=True)
    return nursery.start(
        scenario,
        place,
        RUN_ID=run_id or scenario,
        PORT=str(port),
        SCRAPERS="2",
        SECONDS="0.3",
        RLHF_OTEL_TEAM="alignment",
        RLHF_OTEL_OWNER="ada",
    )


def freeze(training: Training) -> None:
    """The process answers nothing for a while, as on a host that swaps."""
    training.address()
    os.kill(training.pid, signal.SIGSTOP)
    time.sleep(FREEZE_S)
    os.kill(training.pid, signal.SIGCONT)


def ask_once(training: Training) -> None:
    """A curl in between, which never comes back: nobody waits for it."""
    status, text = fetch("/metrics", training.address(), User_Agent="curl/8.5.0")
    assert status == 200
    assert "rlhf_step" in text


@pytest.mark.parametrize("run_id", PAGED)
def test_exactly_one_page(watch: Watch, run_id: str) -> None:
    """Though there are two replicas, and two engines for what is not finite."""
    assert watch.of(run_id, "page") == [[PAGED[run_id]]]


@pytest.mark.parametrize("run_id", SILENT)
def test_silence(watch: Watch, run_id: str) -> None:
    """A run that ended well, and one that was pre-empted."""
    assert watch.of(run_id, "page") == []
    assert watch.of(run_id, "ticket") == []


def test_a_page_says_what_and_since_when(watch: Watch) -> None:
    (page,) = [
        note
        for note in watch.notifications
        if note.receiver == "page" and note.firing and note.firing[0]["labels"]["run_id"] == "nan_reward"
    ]
    said = [alert["annotations"].get("observed", "") for alert in page.firing]
    assert any(f"since step {STRIKES}" in text for text in said)
    assert page.firing[0]["annotations"]["runbook_url"].endswith("NonFinite.md")


def test_scrapes_of_the_frozen_run_did_fail(watch: Watch) -> None:
    """Between two that did not: else its silence would say nothing."""
    query = f'count_over_time((up == 0 and on (instance) last_over_time(rlhf_step{{run_id="{FROZEN}"}}[10m]))[10m:1s])'
    for url in watch.prometheus:
        assert found_by(url, query)


def test_the_resumed_run_was_seen_on_both_hosts(watch: Watch) -> None:
    query = f'count(count by (instance) (last_over_time(rlhf_step{{run_id="{RESUMED}"}}[10m])))'
    for url in watch.prometheus:
        (series,) = found_by(url, query)
        assert series.value == 2


@pytest.mark.parametrize(
    ("run_id", "state"), [("nan_reward", "still running"), ("exception", "failed"), ("kill", "gone")]
)
def test_a_page_says_for_whom_how_the_run_is_and_what_is_at_stake(
    watch: Watch, run_id: str, state: str
) -> None:
    """Of a run that nothing is known of any more, too."""
    page = next(
        note
        for note in watch.notifications
        if note.receiver == "page" and note.firing and note.firing[0]["labels"]["run_id"] == run_id
    )
    alert = page.firing[0]
    assert alert["labels"]["team"] == "alignment"
    said = alert["annotations"]
    assert said["owner"] == "ada"
    assert said["state"].startswith(state)
    assert said["gpu_hours_at_risk"].startswith("none, since no rank sees a GPU (0.0")
    assert said["last_good_checkpoint"] == "none in this attempt"
    assert said["action_taken"] == "none"
    board = urlsplit(said["board_url"])
    asked = {name: values[0] for name, values in parse_qs(board.query).items()}
    assert board.path == "/d/rlhf-run"
    assert asked["var-run"] == run_id
    assert int(asked["from"]) / 1000 < page.time_s < int(asked["to"]) / 1000
    if run_id == "nan_reward":
        assert said["trace_id"] in said["trace_url"]


@pytest.mark.parametrize("run_id", ["finish", "exception", "terminate"])
def test_both_replicas_have_the_end(watch: Watch, run_id: str) -> None:
    outcome = {"finish": "finished", "exception": "failed", "terminate": "interrupted"}[run_id]
    query = f'last_over_time(rlhf_run_end_timestamp_seconds{{run_id="{run_id}"}}[10m])'
    for url in watch.prometheus:
        (series,) = found_by(url, query)
        assert series.labels["outcome"] == outcome


def test_the_receiver_would_have_heard(watch: Watch) -> None:
    assert any(note.receiver == "watchdog" for note in watch.notifications)
