"""How long after a run begins to hang its page arrives, and how many pages runs get that do not hang.

    python benchmarks/stall.py [--json FILE] [--repeat N] [--healthy N] [--quick]

Real Prometheus (two replicas), Alertmanager and receiver; the runs are the stub trainer's, paced, under the real callback and
endpoint. A run hangs in a reward function that never answers, with the interpreter's lock held, or stopped by a signal. Times are
from that moment to the first evaluation at which RunStalled fires, and to the page. The bound is three times the 99th percentile
of the run's steps before, one scrape and one evaluation; Alertmanager's group wait comes on top for the page. The floor below
which no time without a step counts is set lower than that.

Healthy runs have steps that differ, a first one of five times the length, evaluations and checkpoints of several steps'
length. A page about one of them, a second page about a run, and a late alert are failures.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy
from machine import argument_parser, headline, write_report
from stalling_run import HANGS, Plan, train

from rlhf_otel.demo.receiver import Receiver
from rlhf_otel.demo.servers import HOW_TO_GET_THEM, Servers
from rlhf_otel.detection.promql import Timing
from rlhf_otel.servers.prometheus import Prometheus

HERE: Final = Path(__file__).parent
TIMING: Final = Timing(scrape_s=1)
EVALUATION_S: Final = 1.0
GROUP_WAIT_S: Final = 3.0
FLOOR_S: Final = 1.0
STEPS_S: Final = (1.0, 3.0)
STRIKE: Final = 13
"""Before an evaluation is due, and after a first step that has taken longer than the others."""
PATIENCE_S: Final = 120.0
QUIET_S: Final = 20.0
"""In which a second page would come: Alertmanager tells every 5 s what has joined one, and a rank is gone after 8 s."""
HEALTHY_STEP_S, HEALTHY_STEPS, HEALTHY_SPREAD, AT_ONCE = 0.5, 40, 0.2, 6

os.environ["PYTHONPATH"] = os.pathsep.join(map(str, (HERE.parent, HERE, os.environ.get("PYTHONPATH", ""))))
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["stalling_run"])


class Case(NamedTuple):
    """What came of a run that hangs; seconds from the moment at which it began to."""

    hang: str
    step_s: float
    p99_s: float
    alert_s: float
    page_s: float
    said: str

    @property
    def bound_s(self) -> float:
        """When the alert has to fire."""
        return 3 * self.p99_s + TIMING.scrape_s + EVALUATION_S


class Stage:
    """Servers that watch whatever registers in a folder, and a receiver."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.targets = folder, folder / "targets"
        self.targets.mkdir()
        self.receiver = Receiver(folder / "traces")
        self.servers = Servers(
            folder,
            [],
            self.receiver.start(),
            file_sd=[str(self.targets / "*.json")],
            timing=TIMING,
            group_interval="5s",
        )
        self.servers.start()

    def pages(self, run_id: str) -> list[tuple[float, dict[str, Any]]]:
        """Time of each page about a run, and its first alert."""
        return [
            (note.time_s, note.firing[0])
            for note in list(self.receiver.notifications)
            if note.receiver == "page" and note.firing and note.firing[0]["labels"]["run_id"] == run_id
        ]

    def fired_at(self, run_id: str) -> float:
        """Time of the first evaluation of any replica at which RunStalled fired for the run."""
        query = f'min_over_time(timestamp(ALERTS{{alertname="RLHFRunStalled",alertstate="firing",run_id="{run_id}"}})[30m:1s])'
        return min(
            each.value for server in self.servers.prometheus for each in Prometheus(server.url).query(query)
        )

    def seen(self, run_id: str) -> bool:
        """Whether all replicas have scraped the run."""
        query = f'last_over_time(rlhf_step{{run_id="{run_id}"}}[30m])'
        return all(Prometheus(server.url).query(query) for server in self.servers.prometheus)

    def close(self) -> None:
        """Stop everything."""
        self.servers.stop()
        self.receiver.stop()


def hanging(stage: Stage, number: int, steps_s: Sequence[float]) -> list[Case]:
    """All ways to hang, at all paces, at once: a run mostly sleeps."""
    plans = [
        Plan(
            f"{hang.replace(' ', '-').lower()}-{step_s:g}-{number}", stage.folder, stage.targets,
            FLOOR_S, step_s, 10 * STRIKE, hang=hang, strike=STRIKE, seed=number,
        )
        for hang in HANGS
        for step_s in steps_s
    ]  # fmt: skip
    processes = [_start(plan) for plan in plans]
    try:
        for plan in plans:
            _await(plan.facts.exists, f"{plan.run_id} hangs", 2 * STRIKE * plan.step_s)
            _await(lambda run_id=plan.run_id: stage.pages(run_id), f"a page about {plan.run_id}")  # type: ignore[misc]
        time.sleep(QUIET_S)  # nothing to be awaited: that no second page comes
        return [_case(stage, plan) for plan in plans]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _case(stage: Stage, plan: Plan) -> Case:
    facts = json.loads(plan.facts.read_text())
    (page, *more) = stage.pages(plan.run_id)
    if more:
        told = [
            f"{time_s - facts['began']:.1f} s: {found['labels']}"
            for time_s, found in stage.pages(plan.run_id)
        ]
        sys.exit(f"{plan.run_id} was paged {1 + len(more)} times: {told}; see {stage.folder}")
    arrived_s, alert = page
    p99_s = float(numpy.percentile(facts["step_s"][1:], 99))
    said = alert["annotations"].get("observed", "")
    return Case(
        plan.hang,
        plan.step_s,
        p99_s,
        stage.fired_at(plan.run_id) - facts["began"],
        arrived_s - facts["began"],
        said,
    )


def healthy(stage: Stage, runs: int) -> tuple[int, int]:
    """Runs that were paged, of how many that both replicas have seen, some at once."""
    plans = iter(
        Plan(
            f"healthy-{seed}", stage.folder, stage.targets,
            FLOOR_S, HEALTHY_STEP_S, HEALTHY_STEPS, HEALTHY_SPREAD, seed=seed,
        )
        for seed in range(runs)
    )  # fmt: skip
    while batch := [plan.run_id for plan in islice(plans, AT_ONCE) if _start(plan)]:
        _await(lambda: not _processes.active_children(), "the end of healthy runs", 10 * PATIENCE_S)
        print(f"healthy: {batch[-1]} has ended", flush=True)
    time.sleep(QUIET_S)
    names = [f"healthy-{seed}" for seed in range(runs)]
    for name in names:
        for _, alert in stage.pages(name):
            print(f"{name}: {alert['labels']['rule']}: {alert['annotations'].get('observed', '')}")
    return sum(bool(stage.pages(name)) for name in names), sum(stage.seen(name) for name in names)


def _start(plan: Plan) -> BaseProcess:
    process = _processes.Process(target=train, args=(plan,))
    process.start()
    return process


def _await(condition: Callable[[], object], what: str, more_s: float = 0.0) -> None:
    deadline = time.monotonic() + PATIENCE_S + more_s
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not in time: {what}")
        time.sleep(0.1)


def show(cases: Sequence[Case]) -> None:
    """A table: medians, and the worst against its own bound."""
    print(
        f"{'hang':<15} {'step':>5} {'runs':>5} {'p99':>7} {'alert':>7} {'bound':>7} {'alert/bound':>12} {'page':>7}"
        "   (medians, s after it began to hang; alert/bound: the worst)"
    )
    for hang, step_s in dict.fromkeys((case.hang, case.step_s) for case in cases):
        mine = [case for case in cases if (case.hang, case.step_s) == (hang, step_s)]
        worst = max(case.alert_s / case.bound_s for case in mine)
        p99, alert, bound, page = (
            median(getattr(case, name) for case in mine) for name in ("p99_s", "alert_s", "bound_s", "page_s")
        )
        print(
            f"{hang:<15} {step_s:>5g} {len(mine):>5} {p99:>7.2f} {alert:>7.2f} {bound:>7.2f} {worst:>12.2f} {page:>7.2f}"
        )
        print(f"{'':<15} {mine[0].said}")
    print(
        f"bound: 3 x p99, scrape {TIMING.scrape_s:g}, evaluation {EVALUATION_S:g}; "
        f"a page waits {GROUP_WAIT_S:g} s more for its group"
    )


def main() -> int:
    """Measure, print, and fail at a late alert, a page too many, or a false one."""
    parser = argument_parser(__doc__, quick="one run of each kind at one pace, two healthy")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--healthy", type=int, default=30, help="healthy runs (default: %(default)s)")
    arguments = parser.parse_args()
    repeat, runs, steps_s = arguments.repeat, arguments.healthy, STEPS_S
    if arguments.quick:
        repeat, runs, steps_s = 1, 2, STEPS_S[:1]

    folder = Path(tempfile.mkdtemp(prefix="stall-"))
    if not Servers(folder, [], "").available:
        sys.exit(HOW_TO_GET_THEM)
    stage = Stage(folder)
    try:
        cases = [case for number in range(repeat) for case in hanging(stage, number, steps_s)]
        print(headline())
        show(cases)
        paged, seen = healthy(stage, runs)
    finally:
        stage.close()
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{runs} healthy runs of {HEALTHY_STEPS} steps, {seen} seen by both replicas: {paged} paged")
    if arguments.json:
        rows = [case._asdict() | {"bound_s": case.bound_s} for case in cases]
        write_report(arguments.json, ["rlhf-otel"], {"hanging": rows, "paged": paged})
    late = any(case.alert_s > case.bound_s for case in cases)
    return 1 if late or paged or seen < runs else 0


if __name__ == "__main__":
    sys.exit(main())
