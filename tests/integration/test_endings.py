"""How a run ends, as Prometheus, the journal and the process's own exit status tell it."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from observing import ARRIVES_WITHIN_S, Prometheus, Scrape, has_ended, journal, scrape
from otlp_receiver import free_port, wait_until
from processes import WITHIN_S, Nursery
from scenarios import STEPS, STRIKES

from rlhf_otel.exporters.scrape_clients import TIMEOUT_HEADER

END = "rlhf_run_end_timestamp_seconds"


class Watched(NamedTuple):
    """A process that has ended, and who scraped it."""

    status: int
    clients: list[Prometheus]


@contextlib.contextmanager
def watched(nursery: Nursery, scenario: str, folder: Path, replicas: int = 1) -> Iterator[Watched]:
    """The scenario, scraped by replicas at different offsets, until its process has ended."""
    training = nursery.start(scenario, folder, SCRAPERS=str(replicas))
    base = training.address()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Prometheus(0.2 + 0.07 * number, base)) for number in range(replicas)]
        yield Watched(training.wait(), clients)


def ends_seen(client: Prometheus, run_id: str = "r") -> list[str]:
    """The outcomes that a client saw, scrape by scrape."""
    found = (Scrape(text) for text in client.texts)
    return [
        labels["outcome"] for s in found for labels, _ in s.samples.get(END, ()) if labels["run_id"] == run_id
    ]


CASES: dict[str, tuple[int, str, str, int]] = {
    "finish": (0, "finished", "", STEPS),
    "in_a_child": (0, "finished", "", STEPS),
    "exception": (1, "failed", "RuntimeError: no memory for step 7", STRIKES),
    "exception_and_terminate": (-15, "failed", "RuntimeError: no memory for step 7", STRIKES),
    "keyboard": (-2, "interrupted", "KeyboardInterrupt: ", STRIKES),
    "exits": (3, "interrupted", "SystemExit: 3", STRIKES),
    "terminate": (-15, "interrupted", "SIGTERM", STRIKES),
    "terminate_and_stop": (0, "interrupted", "SIGTERM", STRIKES),
    "terminate_and_exit": (143, "interrupted", "SIGTERM, then SystemExit: 143", STRIKES),
    "terminate_and_raise": (1, "interrupted", "SIGTERM, then RuntimeError: no memory for step 7", STRIKES),
    "terminate_and_fail_later": (1, "failed", "RuntimeError: no memory for step 7", STRIKES + 2),
}
"""Scenario to exit status, and outcome, reason and last whole step of the end."""


SELDOM = ("keyboard", "exits", "terminate_and_exit")
"""Ways that differ little from another: not in each run of the tests."""


@pytest.mark.parametrize(
    "scenario", [pytest.param(name, marks=[pytest.mark.slow] * (name in SELDOM)) for name in CASES]
)
def test_two_replicas_see_how_it_ended(nursery: Nursery, scenario: str, tmp_path: Path) -> None:
    status, outcome, reason, step = CASES[scenario]
    with watched(nursery, scenario, tmp_path, replicas=2) as found:
        assert found.status == status
        for client in found.clients:
            assert ends_seen(client)[-1] == outcome
    (end,) = journal(tmp_path / "journal", "end")
    assert (end["outcome"], end["reason"], end["step"]) == (outcome, reason, step)
    whole = [record["step"] for record in journal(tmp_path / "journal", "step")]
    assert whole[:step] == list(range(1, step + 1))


@pytest.mark.parametrize("scenario", ["finish", "terminate"])
def test_without_a_prometheus_nobody_is_waited_for(nursery: Nursery, scenario: str, tmp_path: Path) -> None:
    """Though ``linger_s`` is ten minutes."""
    began = time.monotonic()
    training = nursery.start(scenario, tmp_path, LINGER_S="600")
    assert training.wait() == CASES[scenario][0]
    assert time.monotonic() - began < 120
    assert journal(tmp_path / "journal", "end")[0]["outcome"] == CASES[scenario][1]


@contextlib.contextmanager
def scraped_once(base: str) -> Iterator[Callable[[], Scrape]]:
    """A Prometheus that scraped once, so that nobody knows its interval, and keeps its connection.

    What it yields scrapes again.
    """
    connection = http.client.HTTPConnection(base.removeprefix("http://"), timeout=ARRIVES_WITHIN_S)

    def again() -> Scrape:
        headers = {"User-Agent": "Prometheus/2.42.0", TIMEOUT_HEADER: "1"}
        connection.request("GET", "/metrics", headers=headers)
        return Scrape(connection.getresponse().read().decode())

    with contextlib.closing(connection):
        again()
        yield again


def test_the_wait_is_bounded(nursery: Nursery, tmp_path: Path) -> None:
    """Who scraped once and keeps the connection is waited for: at most, and no less than, ``linger_s``."""
    training = nursery.start("finish", tmp_path, SCRAPERS="1", LINGER_S="2")
    with scraped_once(training.address()):
        assert training.wait() == 0
        gone_at = time.time()
    (end,) = journal(tmp_path / "journal", "end")
    assert end["outcome"] == "finished"
    assert 2.0 <= gone_at - end["time"] < 50.0, "the bound, and not the default, which is a minute"


def test_the_wait_lasts_as_long_as_the_bound_lets_it(nursery: Nursery, tmp_path: Path) -> None:
    """With ``linger_s`` at ten minutes the process is still there, and what it has to say."""
    training = nursery.start("finish", tmp_path, SCRAPERS="1", LINGER_S="600")
    base = training.address()
    with scraped_once(base):
        wait_until(lambda: has_ended(tmp_path / "journal"), WITHIN_S)
        (end,) = journal(tmp_path / "journal", "end")
        wait_until(lambda: time.time() - end["time"] > 5.0, WITHIN_S)  # more than the shorter bound
        assert END in scrape(base).samples
    assert training.wait() == 0, "a client that closes its connection is waited for no more"


@pytest.mark.parametrize(("scenario", "status"), [("kill", -9), ("vanish", 4)])
def test_a_process_that_vanishes_says_nothing(
    nursery: Nursery, scenario: str, status: int, tmp_path: Path
) -> None:
    with watched(nursery, scenario, tmp_path) as found:
        assert found.status == status
        assert ends_seen(found.clients[0]) == []
    assert journal(tmp_path / "journal", "end") == []
    assert next(record["type"] for record in journal(tmp_path / "journal")) == "run"


def test_sigterm_that_is_ignored_is_taken_back(nursery: Nursery, tmp_path: Path) -> None:
    training = nursery.start("terminate_and_go_on", tmp_path)
    assert training.wait() == 0, training.output
    ends = json.loads((tmp_path / "ends.json").read_text())
    assert ends == {str(STRIKES): True, str(STRIKES + 1): False, str(STEPS - 1): False}
    (end,) = journal(tmp_path / "journal", "end")
    assert (end["outcome"], end["step"]) == ("finished", STEPS)


@pytest.mark.slow
def test_a_checkpoint_at_sigterm_as_transformers_has_it(nursery: Nursery, tmp_path: Path) -> None:
    training = nursery.start("terminate_and_checkpoint", tmp_path)
    assert training.wait() == 0, training.output
    (end,) = journal(tmp_path / "journal", "end")
    assert (end["outcome"], end["reason"]) == ("interrupted", "SIGTERM")
    assert STRIKES <= end["step"] < 1000
    (saved,) = (int(path.name.partition("-")[2]) for path in (tmp_path / "out").glob("checkpoint-*"))
    assert end["step"] - 1 <= saved <= end["step"], "in the last step, or at its end"


def test_training_in_a_thread_that_the_end_of_the_process_cuts_off(nursery: Nursery, tmp_path: Path) -> None:
    training = nursery.start("from_a_thread", tmp_path)
    assert training.wait() == 0, training.output
    (end,) = journal(tmp_path / "journal", "end")
    assert (end["outcome"], end["reason"]) == ("interrupted", "the process ended")


def test_each_of_several_runs_in_a_process_is_seen_to_end(nursery: Nursery, tmp_path: Path) -> None:
    """They follow upon each other without waiting for a Prometheus, which finds the ends of all."""
    outcomes = {"first": "failed", "second": "finished", "third": "finished"}
    base = f"http://localhost:{(port := free_port())}"
    training = nursery.start("one_after_another", tmp_path, SCRAPERS="1", PORT=str(port))
    wait_until((tmp_path / "first/address").exists, WITHIN_S)
    with scraped_once(base) as again:
        wait_until((tmp_path / "third/address").exists, WITHIN_S)
        wait_until(lambda: has_ended(tmp_path / "third/journal"), WITHIN_S)
        wait_until(lambda: scrape(base).by("outcome", END, run_id="third") != {}, WITHIN_S)
        seen = again()
        for run_id, outcome in outcomes.items():
            assert list(seen.by("outcome", END, run_id=run_id)) == [outcome]
        assert seen.duplicates() == []
        again()
        assert training.wait() == 0, training.output
    bases = json.loads((tmp_path / "bases.json").read_text())
    assert bases == [base] * 3, "a later run is where Prometheus looks for it"
