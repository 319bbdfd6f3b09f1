"""A real Alertmanager with the generated configuration: what a cause explains away, in any order of arrival."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alerting import alert, quiet, send, told
from otlp_receiver import wait_until

from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import PROGRAMS, Servers, program

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]

GROUP_WAIT_S = 3.0
"""Of the one-second variant of the configuration."""
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def paging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Receiver]]:
    folder = tmp_path_factory.mktemp("alertmanager")
    receiver = Receiver(folder / "traces")
    servers = Servers(folder, [], receiver.start(), replicas=0)
    try:
        servers.start()
        yield servers.started[0].url, receiver
    finally:
        servers.stop()
        receiver.stop()


def test_what_is_caused_is_not_told(paging: tuple[str, Receiver]) -> None:
    """Cause first, effect first within the wait of a group, effect alone, cause of another run."""
    url, receiver = paging
    send(
        url,
        alert("NonFinite", "cause-first"),
        alert("KLRunaway", "effect-first"),
        alert("KLRunaway", "alone"),
    )
    send(
        url,
        alert("KLRunaway", "cause-first"),
        alert("NonFinite", "effect-first"),
        alert("NonFinite", "other"),
    )

    def pages(run_id: str) -> list[list[str]]:
        return told(receiver.notifications, "page", run_id)

    wait_until(lambda: all(pages(run) for run in ("cause-first", "effect-first", "alone", "other")), WITHIN_S)
    assert pages("cause-first") == pages("effect-first") == [["NonFinite"]]
    assert pages("alone") == [["KLRunaway"]]


def test_a_spike_that_was_flushed_before_its_source(paging: tuple[str, Receiver]) -> None:
    """It was a ticket; the page that follows is one, and says the source alone."""
    url, receiver = paging
    send(url, alert("LossSpike", "late"))
    wait_until(lambda: told(receiver.notifications, "ticket", "late"), WITHIN_S)
    send(url, alert("LossSpike", "late"), alert("NonFinite", "late"), alert("NonFinite", "late", "level"))
    wait_until(lambda: told(receiver.notifications, "page", "late"), WITHIN_S)
    quiet(2 * GROUP_WAIT_S)
    assert told(receiver.notifications, "page", "late") == [["NonFinite"]]
    assert told(receiver.notifications, "ticket", "late") == [["LossSpike"]]


def test_alerts_without_a_run_explain_nothing_away(paging: tuple[str, Receiver]) -> None:
    """``equal`` on a label that both sides lack would match."""
    url, receiver = paging
    source, target = alert("NonFinite"), alert("LossSpike")
    for each in (source, target):
        del each["labels"]["run_id"]
    send(url, source, target)
    wait_until(
        lambda: any(
            note.receiver == "ticket" and note.firing and "run_id" not in note.firing[0]["labels"]
            for note in receiver.notifications
        ),
        WITHIN_S,
    )
