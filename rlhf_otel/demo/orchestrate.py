"""The demo: a real GRPO run in a process of its own, watched by the real tools."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from rlhf_otel.catalogue.rules import RULE_BY_NAME, Severity
from rlhf_otel.demo.evidence import Evidence, read_alerts, read_fault, read_run
from rlhf_otel.demo.live import Journal, view_for
from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import HOW_TO_GET_THEM, Servers, free_port, reserved_port
from rlhf_otel.demo.signals import ending_by_signals
from rlhf_otel.demo.summary import print_summary, summary
from rlhf_otel.errors import DemoError
from rlhf_otel.settings import PREFIX

SETTLE_S: Final = 20.0
"""How long the demo waits after training for what is still on its way: a vanished run is alerted on after 8 s here."""
STALL_FLOOR_S: Final = 35.0
"""Below the stall that can be injected, and above what an end may take on a busy machine: an evaluation, a checkpoint,
20 s for its analysis at idle priority and 5 s for what is queued."""
TRACE_ONE_IN: Final = 50


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo was asked for."""

    run_dir: Path
    fault: str
    steps: int
    fault_step: int
    seed: int
    keep: bool
    svg: Path | None
    expected: frozenset[str]
    """Rules that the fault should set off."""
    port: int | None = None
    """Where the run's metrics are; by default on a free port."""


def run_demo(options: Options, console: Console) -> Evidence:
    """Run the demo; nothing is left running unless asked for, however it ends: SIGTERM and SIGHUP included."""
    with ending_by_signals():
        return _run(options, console)


def _run(options: Options, console: Console) -> Evidence:
    _require_empty(options.run_dir)
    evidence = Evidence(options.fault)
    receiver = Receiver(options.run_dir / "traces.otlp.jsonl")
    receiver_url = receiver.start()
    port = _port(options.port)
    servers = Servers(options.run_dir, [f"localhost:{port}"], receiver_url)
    evidence.notifications, evidence.spans = receiver.notifications, receiver.spans
    try:
        if servers.available:
            servers.start()
        else:
            console.print(HOW_TO_GET_THEM, style="yellow")
        started = time.time()
        training = _train(options, port, receiver_url)
        try:
            _watch(training, options, receiver, console)
            if servers.available:
                _settle(options, receiver)
        finally:
            _end(training)
        read_fault(options.run_dir, evidence)
        read_run(options.run_dir / "journal", evidence)
        for replica in servers.prometheus:
            read_alerts(replica.url, started, time.time(), evidence)
        content = summary(evidence, bool(servers.started), options.run_dir, receiver.traces)
        print_summary(console, content, options.svg)
        if options.keep:
            _keep(servers, console)
        else:
            servers.stop()
        return evidence
    except BaseException:
        servers.stop()
        raise
    finally:
        receiver.stop()


def _port(wanted: int | None) -> int:
    """A free one unless asked: another run may be about to take the usual one, and would be scraped in this one's place."""
    if wanted is not None and free_port(wanted) != wanted:
        raise DemoError(
            f"port {wanted} is taken: --port takes another, and without it the demo takes a free one"
        )
    return wanted or reserved_port()


def _require_empty(run_dir: Path) -> None:
    """Make the folder; an earlier run's journal, fault and series would pass for those of the new one."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if any(run_dir.iterdir()):
        raise DemoError(
            f"{run_dir} is not empty; give --dir a new folder, empty this one, or leave --dir out"
        )


def _train(options: Options, port: int, receiver_url: str) -> subprocess.Popen[bytes]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith((PREFIX, "OTEL_"))}
    environment |= {
        f"{PREFIX}RUN_ID": f"demo-{options.fault}-{options.seed}",
        f"{PREFIX}RUN_NAME": f"demo of {options.fault}",
        f"{PREFIX}TEAM": "demo",
        f"{PREFIX}METRICS_PORT": str(port),
        f"{PREFIX}JOURNAL": str(options.run_dir / "journal"),
        f"{PREFIX}STALL_FLOOR_S": str(STALL_FLOOR_S),
        f"{PREFIX}TRACE_ONE_IN": str(TRACE_ONE_IN),
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver_url}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [
        *(sys.executable, "-m", "rlhf_otel.demo.train"),
        *("--run-dir", str(options.run_dir), "--steps", str(options.steps), "--seed", str(options.seed)),
        *("--fault", options.fault, "--fault-step", str(options.fault_step)),
    ]
    with (options.run_dir / "train.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def _watch(training: subprocess.Popen[bytes], options: Options, receiver: Receiver, console: Console) -> None:
    """Show the run until the training process has ended."""
    journal = Journal(options.run_dir / "journal")
    told = 0
    console.print(f"Training a tiny model with GRPO for {options.steps} steps; fault: {options.fault}.")
    with view_for(console, options.steps) as view:
        while True:
            ended = training.poll() is not None
            records = list(journal.fresh())
            news = receiver.notifications[told:]
            told += len(news)
            view.show(records, [*_anomaly_lines(records), *_page_lines(news)])
            if ended:
                return
            time.sleep(0.2)


def _anomaly_lines(records: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"step {record['step']}: {record['rule']} ({record['severity']}), {record['signal']} is {record['value']:.4g}"
        for record in records
        if record["type"] == "anomaly"
    ]


def _page_lines(notifications: Sequence[Any]) -> list[str]:
    return [
        f"{note.receiver} delivered: {', '.join(sorted({alert['labels']['alertname'] for alert in note.firing}))}"
        for note in notifications
        if note.receiver in ("page", "ticket") and note.firing
    ]


def _settle(options: Options, receiver: Receiver) -> None:
    """Wait until what the fault should set off has been delivered; for a healthy run, the whole time."""
    pages = frozenset(r for r in options.expected if RULE_BY_NAME[r].severity is Severity.CRITICAL)

    def delivered() -> bool:
        firing = {alert["labels"]["rule"] for note in receiver.notifications for alert in note.firing}
        return bool(options.expected) and bool(firing & (pages or options.expected))

    _await(delivered, SETTLE_S)


def _await(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return condition()


def _end(training: subprocess.Popen[bytes]) -> None:
    if training.poll() is None:
        training.kill()
        training.wait()


def _keep(servers: Servers, console: Console) -> None:
    if not servers.started:
        console.print("\n--keep: no server was started, so that none is left running.", style="yellow")
        return
    console.print("\nLeft running:")
    for server in servers.started:
        console.print(f"  {server.name}: {server.url}", highlight=False)
    processes = " ".join(str(server.process.pid) for server in servers.started)
    console.print(f"Stop them with: kill {processes}", highlight=False)
    console.print("The receiver ended with the demo: Alertmanager's notifications fail from now on.")
