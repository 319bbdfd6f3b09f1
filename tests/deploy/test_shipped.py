"""An injected fault travels to a receiver through what is shipped: ``rlhf-otel up``, a run of the demo beside it, a page.

With the intervals that people get, not the one-second variant of other tests: it takes two minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pytest
from click.testing import CliRunner
from otlp_receiver import free_port, wait_until

from rlhf_otel.cli import commands
from rlhf_otel.demo.receiver import Notification, Receiver
from rlhf_otel.demo.servers import PROGRAMS, program, reserved_port
from rlhf_otel.servers.http import get_json
from rlhf_otel.servers.prometheus import Prometheus

pytestmark = [
    pytest.mark.servers,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not all(program(name) for name in PROGRAMS), reason="prometheus and alertmanager are not installed"
    ),
]
RUN = "a run of the demo"
STEPS = 2000
"""Some minutes: the page comes up to 75 s after the fault."""
WITHIN_S = 240.0


class Paged(NamedTuple):
    """The page, and the servers that it came from."""

    page: Notification
    others: list[Notification]
    prometheus: Prometheus


@pytest.fixture(scope="module")
def paged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paged]:
    """`up`, a run whose reward turns NaN, and its page."""
    folder = tmp_path_factory.mktemp("path with spaces")
    receiver = Receiver(folder / "traces")
    url = receiver.start()
    (folder / "paging.yaml").write_text(
        f"default: {{page: [{{webhook: '{url}/page'}}], ticket: [{{webhook: '{url}/ticket'}}]}}\n"
        f"watchdog: [{{webhook: '{url}/watchdog'}}]\n"
    )
    port, ports = reserved_port(), (free_port(), free_port())
    stack = ["--dir", str(folder / "stack")]
    started = CliRunner().invoke(
        commands,
        [
            *("up", "--with", "programs", *stack, "--target", f"localhost:{port}"),
            *("--paging", str(folder / "paging.yaml")),
            *("--prometheus-port", str(ports[0]), "--alertmanager-port", str(ports[1])),
        ],
    )
    assert started.exit_code == 0, started.output
    with (folder / "train.log").open("wb") as log:
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "rlhf_otel.demo.train", "--run-dir", str(folder / "run")),
                *("--fault", "nan-reward", "--fault-step", "60", "--steps", str(STEPS)),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"RLHF_OTEL_METRICS_PORT": str(port), "RLHF_OTEL_RUN_ID": RUN, "RLHF_OTEL_OWNER": "ada"},
        )
    try:

        def pages() -> list[Notification]:
            return [note for note in receiver.notifications if note.receiver == "page" and note.firing]

        wait_until(lambda: pages() or run.poll() is not None, WITHIN_S)
        wait_until(pages, WITHIN_S)
        (page,) = pages()
        others = [note for note in receiver.notifications if note.receiver == "ticket" and note.firing]
        yield Paged(page, others, Prometheus(f"http://localhost:{ports[0]}"))
    finally:
        run.kill()
        run.wait()
        CliRunner().invoke(commands, ["down", *stack])
        receiver.stop()


def test_it_says_what_broke(paged: Paged) -> None:
    assert {alert["labels"]["rule"] for alert in paged.page.firing} == {"NonFinite"}
    for alert in paged.page.firing:
        said: dict[str, Any] = alert["annotations"]
        assert alert["labels"]["run_id"] == RUN
        assert said["summary"] == f"Run {RUN}: a value that training rests on is NaN or infinite"
        assert said["observed"].startswith("reward is NaN, usually 0.")
        assert ", since step 60 (" in said["observed"]
        assert said["owner"] == "ada"
        assert said["state"].startswith("still running, at step ")
        assert said["gpu_hours_at_risk"].startswith("none, since no rank sees a GPU")
    assert paged.others == []


def test_its_links_lead_somewhere(paged: Paged) -> None:
    """The runbook, the alert's expression, Alertmanager, and the run that a silence would match."""
    for alert in paged.page.firing:
        runbook = urlsplit(alert["annotations"]["runbook_url"])
        assert runbook.scheme == "file"
        assert "# RLHFNonFinite" in Path(url2pathname(runbook.path)).read_text()
        assert "board_url" not in alert["annotations"]  # there is no Grafana
        with urllib.request.urlopen(alert["generatorURL"], timeout=10) as answer:
            assert answer.status == 200
    pager = paged.page.body["externalURL"]
    with urllib.request.urlopen(f"{pager}/", timeout=10) as answer:
        assert answer.status == 200
    matched = get_json(pager, f"/api/v2/alerts?filter={quote(f'run_id={chr(34)}{RUN}{chr(34)}')}")
    assert {alert["labels"]["rule"] for alert in matched} >= {"NonFinite"}


def test_prometheus_shows_the_run(paged: Paged) -> None:
    (step,) = paged.prometheus.query(f'rlhf_step{{run_id="{RUN}"}}')
    assert step.value > 60
    (state,) = paged.prometheus.query(f'run:rlhf_state:current{{run_id="{RUN}"}}')
    assert state.value == 1
