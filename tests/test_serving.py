"""One endpoint a process: a run that begins while the one before is being withdrawn finds its port free."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from otlp_receiver import free_port

from rlhf_otel import serving
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.exporters.endpoint import Endpoint
from rlhf_otel.records import RunEnd, RunIdentity, RunView, Snapshot

SOON_S = 30.0


class Run:
    """As much of a run as is needed to expose it."""

    def __init__(self, run_id: str) -> None:
        identity = RunIdentity(run_id)
        self.ended = False
        self.end: RunEnd | None = None
        self.settings = SimpleNamespace(file_sd=None, linger_s=0.0)
        self.pipeline = SimpleNamespace(identity=identity)
        self.stalls = SimpleNamespace(health=lambda: (True, "ok"), stacks=None)

    def view(self) -> RunView:
        return RunView(self.pipeline.identity, Snapshot(step=1), end=self.end)

    def abandoned(self) -> None:
        """Nothing to end."""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    serving.close()


def expose(run: Any, port: int) -> None:
    serving.expose(run, "localhost", port)


def end(run: Any, linger_s: float = SOON_S) -> None:
    run.ended = True
    serving.ended(run, linger_s)


def test_a_run_that_begins_while_the_port_is_being_closed_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    port, closing, go_on = free_port(), threading.Event(), threading.Event()
    close = Endpoint.close

    def slow(self: Endpoint) -> None:
        closing.set()
        assert go_on.wait(SOON_S)
        close(self)

    monkeypatch.setattr(Endpoint, "close", slow)
    first, second = Run("first"), Run("second")
    expose(first, port)
    end(first)
    assert closing.wait(SOON_S)
    beginning = threading.Thread(target=expose, args=(second, port))
    beginning.start()
    beginning.join(0.2)  # long enough to take the next port, if it were not to wait
    go_on.set()
    beginning.join(SOON_S)
    assert serving.address() == f"http://localhost:{port}"


def test_the_end_of_a_run_stays_to_be_seen_while_the_next_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what concerns it as a run; the rest would be many series, run after run."""
    monkeypatch.setattr(Endpoint, "wait_held", lambda *_, **__: threading.Event().wait(SOON_S))
    port = free_port()
    first, second = Run("first"), Run("second")
    expose(first, port)
    first.end = RunEnd(Outcome.FAILED, 10**9, 1)
    end(first)
    expose(second, port)
    with urllib.request.urlopen(f"http://localhost:{port}/metrics", timeout=SOON_S) as answer:
        text = answer.read().decode()
    assert 'rlhf_run_end_timestamp_seconds{outcome="failed",rank="0",run_id="first"} 1.0' in _sorted_labels(
        text
    )
    assert 'rlhf_step{run_id="first"} 1.0' in text
    scraped = [line for line in text.splitlines() if line.startswith("rlhf_telemetry_scrapes_total")]
    assert ["second" in line for line in scraped] == [True]


def _sorted_labels(text: str) -> str:
    return re.sub(r"\{(.*?)\}", lambda found: "{" + ",".join(sorted(found[1].split(","))) + "}", text)


def test_what_is_left_of_ended_runs_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many short runs the last ones are kept until they have been seen."""
    monkeypatch.setattr(Endpoint, "wait_held", lambda *_, **__: threading.Event().wait(SOON_S))
    port = free_port()
    for number in range(serving.MOST_ENDED + 5):
        run: Any = Run(f"r{number}")
        expose(run, port)
        run.ended = True
    expose(Run("last"), port)
    views = serving._views()
    assert [view.outlived for view in views] == [True] * serving.MOST_ENDED + [False]
    assert views[-2].identity.run_id == f"r{serving.MOST_ENDED + 4}"


def test_an_attempt_takes_the_place_of_the_one_before() -> None:
    """Two runs of one id would be the same series twice, which Prometheus refuses."""
    port = free_port()
    first: Any = Run("r")
    expose(first, port)
    first.ended = True
    expose(Run("r"), port)
    assert [view.outlived for view in serving._views()] == [False]
