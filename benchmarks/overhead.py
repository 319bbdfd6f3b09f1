"""What a callback costs the training thread per step: ours beside its peers.

    python benchmarks/overhead.py [--json FILE] [--quick]

Every callback observes complete runs of the same stub trainer (stub_trainer.py), one run after another in
this process, interleaved: A B C D A B C D ... The cost of a step is its time with the callback less the median
step without any, of the same round and at the same place in a burst (the first step after a pause is the slowest,
whoever observes it); so it holds the events, the phases and all wrappers: whatever is done on this thread. The
trainer without any callback runs twice a round: what its second run "costs" is the scatter of the machine.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from itertools import cycle
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Final, NamedTuple

import offline  # before what it keeps off the network
import psutil
import torch
from figures import Figure
from machine import argument_parser, headline, machine, write_report
from peers import BARE, FLOOR, OURS, PACKAGES, Peer, peers
from stub_trainer import KEYS, PHASES, Cost, StubTrainer

TARGET_US: Final = 30.0
"""What ours may cost a warm step, median."""
TARGET_P99_US: Final = 150.0
"""... and in the 99th percentile, of which most is the machine's where others work on it."""
TARGET_FLOORS: Final = 3.0
"""... and in floors."""
BACKGROUND_THREAD: Final = "rlhf_otel-background"

BURST: Final = 20
"""Warm steps that follow one another at once, for less than the 5 ms after which Python switches threads."""
PAUSE_S: Final = 0.3
"""... and then a pause, in which background threads catch up (ours looks for work every 250 ms): 15 ms a step, where
real ones take 60 and more."""
SETTLE_S: Final = 0.7
"""Time for background threads to finish what the steps gave them (Trackio's batches wait 0.5 s)."""
BETWEEN_BYTES: Final = 16 << 20
WITHIN_BYTES: Final = 4 << 20
"""Memory that cold work sweeps, before a step and three times within: more than the second-level cache."""


# --- measuring


class Extent(NamedTuple):
    """How much is measured."""

    rounds: int
    """Runs of each callback."""
    steps: int
    """Measured steps of a run."""
    warm_up: int
    """Steps before those."""


class Measured(NamedTuple):
    """One run."""

    costs: list[Cost]
    others_us: float
    """CPU of all other threads and of child processes, per step."""
    background_us: float
    """CPU of our background thread, per step."""


class ColdWork:
    """Arithmetic without the GIL that leaves nothing of what ran before in the caches next to the core."""

    def __init__(self) -> None:
        self._matrix = torch.rand(192, 192)
        self._between = torch.zeros(BETWEEN_BYTES // 4)
        self._within = torch.zeros(WITHIN_BYTES // 4)
        self._calls = 0

    def __call__(self) -> None:
        (self._between if self._calls % 4 == 0 else self._within).add_(1.0)
        torch.mm(self._matrix, self._matrix)
        self._calls += 1


def measure_run(peer: Peer, directory: Path, steps: int, warm_up: int, cold: bool) -> Measured:
    """One run of ``warm_up`` and then ``steps`` steps."""
    gc.collect()
    with ExitStack() as stack:
        stack.callback(peer.clean_up)
        stack.enter_context(redirect_stderr(StringIO()))
        trainer = StubTrainer(peer.make(directory), directory, warm_up + steps, ColdWork() if cold else None)
        trainer.begin()
        stack.callback(trainer.end)
        _steps(trainer, warm_up, cold)
        time.sleep(SETTLE_S)
        before, background = _other_cpu_ns(), _thread_cpu_ns(BACKGROUND_THREAD)
        costs = _steps(trainer, steps, cold)
        time.sleep(SETTLE_S)
        others = (_other_cpu_ns() - before) / steps / 1e3
        return Measured(costs, others, (_thread_cpu_ns(BACKGROUND_THREAD) - background) / steps / 1e3)


def _steps(trainer: StubTrainer, steps: int, cold: bool) -> list[Cost]:
    costs = []
    for step in range(steps):
        costs.append(trainer.step())
        if not cold and step % BURST == BURST - 1:
            time.sleep(PAUSE_S)
    return costs


def _other_cpu_ns() -> int:
    """CPU so far of this process's other threads and its children (W&B has a process of its own)."""
    children = 0.0
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        children += times.user + times.system
    return time.process_time_ns() - time.thread_time_ns() + int(children * 1e9)


def _thread_cpu_ns(name: str) -> int:
    """CPU so far of the threads of a name."""
    idents = [thread.ident for thread in threading.enumerate() if thread.name == name]
    return sum(
        time.clock_gettime_ns(time.pthread_getcpuclockid(ident)) for ident in idents if ident is not None
    )


# --- results


@dataclass
class Result:
    """What a peer added to a step, in microseconds, over all rounds; of the bare trainer the step itself."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    by_round: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    background: list[float] = field(default_factory=list)

    def add(self, run: Measured, bare: Sequence[Cost]) -> None:
        """Take one run, less the bare trainer's median steps of its round, place by place."""
        pairs = list(zip(run.costs, cycle(bare), strict=False))
        wall = [(cost.wall - usual.wall) / 1e3 for cost, usual in pairs]
        self.wall += wall
        self.cpu += [(cost.cpu - usual.cpu) / 1e3 for cost, usual in pairs]
        self.by_round.append(median(wall))
        self.others.append(run.others_us)
        self.background.append(run.background_us)

    def summary(self) -> dict[str, Any]:
        """The numbers that are reported."""
        percentiles = quantiles(self.wall, n=100)
        return {
            "steps": len(self.wall),
            "median_us": median(self.wall),
            "p90_us": percentiles[89],
            "p99_us": percentiles[98],
            "mean_us": fmean(self.wall),
            "cpu_median_us": median(self.cpu),
            "other_threads_cpu_us": median(self.others),
            "background_thread_cpu_us": median(self.background),
            "median_us_by_round": self.by_round,
        }


def measure(contestants: Sequence[Peer], extent: Extent, cold: bool) -> dict[str, Result]:
    """All peers, round after round."""
    results: dict[str, Result] = {peer.name: Result() for peer in contestants}
    for _ in range(extent.rounds):
        bare = [Cost(0, 0)]
        for peer in contestants:
            if peer.skipped:
                continue
            directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
            try:
                os.chdir(directory)
                run = measure_run(peer, directory, extent.steps, extent.warm_up, cold)
            except Exception as error:  # a peer that cannot run here is reported as such
                if peer.name in (BARE, OURS):
                    raise
                peer.skipped = f"{type(error).__name__}: {error}".splitlines()[0]
                continue
            results[peer.name].add(run, bare)
            if peer.name == BARE:
                bare = medians(run.costs, 1 if cold else BURST)
    return {name: result for name, result in results.items() if result.wall}


def medians(costs: Sequence[Cost], places: int) -> list[Cost]:
    """The median step at each of so many places of a burst; ``costs`` begin with one."""
    return [
        Cost(*(int(median(clock)) for clock in zip(*costs[place::places], strict=True)))
        for place in range(min(places, len(costs)))
    ]


COLUMNS: Final = ("median_us", "p90_us", "p99_us", "mean_us", "cpu_median_us")


def table(results: dict[str, Result], contestants: Iterable[Peer]) -> str:
    """Aligned, one line a peer."""
    ours = results[OURS].summary()["median_us"]
    titles = ("median", "p90", "p99", "mean", "CPU", "x ours")
    lines = [f"{'':<24}{''.join(f'{title:>9}' for title in titles)}{'elsewhere':>12}"]
    for peer in contestants:
        if peer.name not in results:
            lines.append(f"{peer.name:<24}  skipped: {peer.skipped}")
            continue
        it = results[peer.name].summary()
        numbers = "".join(f"{it[column]:>9.1f}" for column in COLUMNS)
        ratio = "" if peer.name == BARE else f"{it['median_us'] / ours:.2f}"
        lines.append(f"{peer.name:<24}{numbers}{ratio:>9}{it['other_threads_cpu_us']:>12.1f}")
    return "\n".join(lines)


NOTE: Final = """\
Microseconds on the training thread per step: median, 90th and 99th percentile and mean by wall clock, median
by the thread's CPU clock. The first line is the stub's own step, all others are what the callback adds to it, at the
same place in a burst; the second line, without a callback as well, is what the machine does to these numbers.
"elsewhere" is CPU per step of the peer's other threads and processes; ours is nearly all the background
thread's ({background:.0f} µs by its own clock). The training thread may have to wait for such work when both
want the interpreter at once, at most that long; that is not in the other columns."""


def asked(description: str | None, rounds: int, steps: int) -> tuple[argparse.Namespace, Extent]:
    """The command line, and what it makes of these defaults."""
    parser = argument_parser(description, quick="two short rounds: does it run at all")
    parser.add_argument(
        "--rounds", type=int, default=rounds, help="runs of each callback (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=steps, help="measured steps of a run (default: %(default)s)"
    )
    found = parser.parse_args()
    return found, Extent(2, 60, 20) if found.quick else Extent(found.rounds, found.steps, 100)


def main() -> int:
    """Measure warm and cold, print, write; fail when ours costs more than it may."""
    arguments, extent = asked(__doc__, rounds=5, steps=500)
    torch.set_num_threads(1)
    for name in (OURS, "rl-doctor"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what they find in made-up numbers
    report: dict[str, Any] = {
        "machine": machine(),  # before it is kept busy
        "parameters": {**extent._asdict(), "keys": KEYS, "phases": PHASES},
    }
    print(headline())
    print(
        f"{extent.rounds} runs of {extent.steps} steps each; {KEYS} keys, {PHASES} phases, logging at every step"
    )
    for cold in (False, True):
        contestants = peers()
        results = measure(contestants, extent, cold)
        title = "cold (caches swept before each step and within it)" if cold else "warm (bursts of steps)"
        print(f"\n{title}\n{table(results, contestants)}")
        report["cold" if cold else "warm"] = {
            **{name: result.summary() for name, result in results.items()},
            **{peer.name: {"skipped": peer.skipped} for peer in contestants if peer.skipped},
        }
    print("\n" + NOTE.format(background=report["warm"][OURS]["background_thread_cpu_us"]))
    report["figures"] = [*_figures(report, "warm"), *_figures(report, "cold")]
    if arguments.json:
        write_report(arguments.json, PACKAGES, report)
    return _judge(report["warm"], arguments.quick)


def _figures(report: dict[str, Any], kind: str) -> list[Figure]:
    """What each adds to a step, the cheapest first."""
    measured = {name: one for name, one in report[kind].items() if "median_us" in one and name != BARE}
    figures = [
        Figure(
            f"{name}, {kind}",
            f"median {one['median_us']:.1f} µs, p99 {one['p99_us']:.0f} µs, mean {one['mean_us']:.1f} µs; "
            f"CPU elsewhere {one['other_threads_cpu_us']:.0f} µs",
        )
        for name, one in sorted(measured.items(), key=lambda item: item[1]["median_us"])
    ]  # fmt: skip
    figures += [
        Figure(f"{name}, {kind}", one["skipped"]) for name, one in report[kind].items() if "skipped" in one
    ]
    if kind == "warm":
        ours = measured[OURS]
        floors = ours["median_us"] / measured[FLOOR]["median_us"]
        figures.append(Figure.at_most(f"{OURS}, warm, median", ours["median_us"], TARGET_US, "µs"))
        figures.append(Figure.at_most(f"{OURS}, warm, p99", ours["p99_us"], TARGET_P99_US, "µs", 0))
        figures.append(Figure.at_most(f"{OURS}, warm, median", floors, TARGET_FLOORS, "floors"))
    return figures


def _judge(warm: dict[str, Any], quick: bool) -> int:
    """Only the ratio fails: it hardly depends on the machine, as microseconds do."""
    ours, floors = warm[OURS]["median_us"], warm[OURS]["median_us"] / warm[FLOOR]["median_us"]
    missed = floors > TARGET_FLOORS and not quick
    said = "missed" if ours > TARGET_US else "met"
    print(f"\ntarget: at most {TARGET_US:g} µs warm: {said} ({ours:.1f})")
    said = "missed" if missed else "met"
    print(f"target: at most {TARGET_FLOORS:g} times the floor: {said} ({floors:.1f})")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
