"""Who is woken up for a run that hangs: real runs, two real Prometheus replicas and a real Alertmanager.

All runs are watched at once. Alertmanager tells every 5 s what has joined a page, so that a second page for a run would
come while it is waited for that it does not.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from otlp_receiver import free_port, wait_until
from pages import Watch, evaluated_at, found_by
from processes import Nursery, Training
from tiny import _base_model

from rlhf_otel.demo import language
from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program

pytestmark = [
    pytest.mark.slow,
    pytest.mark.servers,
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]

FLOOR_S = 5.0
"""Without a step for so long a run has stalled: ten times a step here."""
WARMED_UP = 22
"""A step from which on it is known what a step usually takes."""
GROUP_INTERVAL_S = 5
WITHIN_S = 120.0
QUIET_S = 3 * GROUP_INTERVAL_S + 5
"""After the last page, in the time of Prometheus' evaluations: longer than a rank that is gone is waited for."""


class Plan(NamedTuple):
    """A run: its scenario in ``stalls.py``, of which rank what strikes, and the page that comes of it."""

    scenario: str
    page: str = ""
    ranks: int = 1
    by: int = 0
    for_ever: bool = False
    strike: int = 6


RUNS = {
    "blocked-reward": Plan("blocked_reward", "RunStalled", strike=WARMED_UP),
    "gil-hang": Plan("gil_hang", "RunStalled"),
    "stopped": Plan("stopped", "RunStalled"),
    "hang-killed": Plan("blocked_reward", "RunStalled"),
    "killed": Plan("killed", "RunGone"),
    "rank-stopped": Plan("collective", "RunStalled", 2, signal.SIGSTOP),
    "rank-killed": Plan("collective", "RunGone", 2, signal.SIGKILL),
    "rank-killed-other-hangs": Plan("collective", "RunGone", 2, signal.SIGKILL, for_ever=True),
    "long-evaluation": Plan("long_evaluation"),
    "finish": Plan("finish"),
    "terminate": Plan("terminate"),
}
PAGED = {run_id: plan.page for run_id, plan in RUNS.items() if plan.page}
SILENT = [run_id for run_id, plan in RUNS.items() if not plan.page]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery("stalls.py")
    yield made
    made.close()


@pytest.fixture(scope="module")
def watch(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    """All runs, watched until each has paged or ended, and for a while after."""
    folder = tmp_path_factory.mktemp("stalls")
    receiver = Receiver(folder / "traces")
    ports = {run_id: [free_port() for _ in range(plan.ranks)] for run_id, plan in RUNS.items()}
    targets = [f"localhost:{port}" for each in ports.values() for port in each]
    servers = Servers(folder, targets, receiver.start(), group_interval=f"{GROUP_INTERVAL_S}s")
    trainings: dict[str, list[Training]] = {}
    try:
        servers.start()
        for run_id in RUNS:
            trainings[run_id] = start(nursery, run_id, ports[run_id], folder)
        found = Watch(receiver.notifications, [server.url for server in servers.prometheus])
        for run_id in SILENT:
            trainings[run_id][0].wait()
        wait_until(lambda: found.of("hang-killed", "page"), WITHIN_S)
        end(trainings["hang-killed"])
        wait_until(lambda: all(found.of(run_id, "page") for run_id in PAGED), WITHIN_S)
        paged = time.time()
        wait_until(lambda: min(map(evaluated_at, found.prometheus)) > paged + QUIET_S, WITHIN_S)
        yield found
    finally:
        for each in trainings.values():
            end(each)
        servers.stop()
        receiver.stop()


def start(nursery: Nursery, run_id: str, ports: list[int], folder: Path) -> list[Training]:
    """The ranks of a run."""
    plan, rendezvous = RUNS[run_id], free_port()
    started = []
    for rank, port in enumerate(ports):
        place = folder / f"{run_id}-{rank}"
        place.mkdir()
        _base_model(place, language.tokenizer())  # of several ranks only the first would save it
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(plan.ranks),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(rendezvous),
            "STRICKEN": str(plan.ranks - 1),
            "BY": str(int(plan.by)),
            "FOR_EVER": "yes" if plan.for_ever else "no",
        }
        started.append(
            nursery.start(
                plan.scenario,
                place,
                RUN_ID=run_id,
                PORT=str(port - rank),  # to which the local rank is added
                SCRAPERS="2",
                SECONDS="0.3",
                STRIKE=str(plan.strike),
                RLHF_OTEL_STALL_FLOOR_S=str(FLOOR_S),
                **(variables if plan.ranks > 1 else {}),
            )
        )
    return started


def end(trainings: list[Training]) -> None:
    for training in trainings:
        with contextlib.suppress(ProcessLookupError):
            os.kill(training.pid, signal.SIGKILL)


@pytest.mark.parametrize("run_id", PAGED)
def test_exactly_one_page(watch: Watch, run_id: str) -> None:
    """Though there are two replicas and several ranks, and though one that hangs is killed in the end."""
    assert watch.of(run_id, "page") == [[PAGED[run_id]]]


@pytest.mark.parametrize("run_id", SILENT)
def test_no_page(watch: Watch, run_id: str) -> None:
    """For an evaluation that takes long, a good end, and a pre-emption."""
    assert watch.of(run_id, "page") == []


def test_the_silent_runs_were_watched(watch: Watch) -> None:
    for url in watch.prometheus:
        for run_id in SILENT:
            assert found_by(url, f'last_over_time(rlhf_step{{run_id="{run_id}"}}[10m]) > 3'), run_id


def test_the_page_of_a_blocked_reward_names_rank_phase_and_stacks(watch: Watch) -> None:
    said = watch.page("blocked-reward")["annotations"]
    found = re.fullmatch(
        r"rank 0 has been in reward for (\d+) s; a step usually takes ([\d.]+) s", said["observed"]
    )
    assert found, said["observed"]
    assert float(found[1]) >= FLOOR_S
    assert float(found[2]) < FLOOR_S
    assert re.match(r"http://localhost:\d+/stacks, or stacks-rank0.txt", said["stacks"])


@pytest.mark.parametrize("run_id", ["gil-hang", "stopped"])
def test_the_page_of_a_process_that_does_not_answer_says_so(watch: Watch, run_id: str) -> None:
    said = watch.page(run_id)["annotations"]
    assert said["observed"].startswith("rank 0 does not answer")
    assert " it was in " in said["observed"]
    assert said["stacks"] == "stacks-rank0.txt beside the journal"


def test_of_ranks_that_wait_for_each_other_the_stopped_one_is_named(watch: Watch) -> None:
    page = watch.page("rank-stopped")
    assert page["annotations"]["observed"].startswith("rank 1 does not answer")
    assert "rank" not in page["labels"], "one alert a run"


@pytest.mark.parametrize(
    ("run_id", "rank"), [("killed", 0), ("rank-killed", 1), ("rank-killed-other-hangs", 1)]
)
def test_the_page_of_a_killed_rank_names_it(watch: Watch, run_id: str, rank: int) -> None:
    """Whatever that did to the other one: it failed, or hangs."""
    assert watch.page(run_id)["annotations"]["observed"] == f"gone: rank {rank} "
