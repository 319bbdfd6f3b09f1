"""How the cost of a step grows: with signals, rules, phases, ranks, and with the steps so far.

    python benchmarks/growth.py [--steps 100000] [--json FILE] [--quick]

Each thing is varied alone, the others are those of a usual run. Judging is what the background thread does of a step
(baselines, rules, health, snapshot), noting what the training thread does of its phases, nesting what the other makes of
them: by the CPU clock of the thread, as the median of blocks of steps. What grows has to grow in proportion: what one more
costs may not double from the first half to the second. What must not grow is compared between its ends.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from statistics import median
from time import thread_time_ns
from typing import Final

import offline  # noqa: F401 - before what it keeps off the network
from figures import Figure
from machine import argument_parser, headline, write_report

from rlhf_otel.catalogue.rules import RULES
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters import text_format
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import RunIdentity, RunView, StepRecord
from rlhf_otel.settings import Settings
from rlhf_otel.sources.phases import PhaseRecorder, nest

BLOCK: Final = 50
"""Steps that are timed together."""
PHASED_BLOCK: Final = 10
"""The same, of steps with many phases: fewer than those that the training thread would account for by itself."""
BLOCKS: Final = 40
WARM_UP: Final = 300
"""Steps before, in which baselines fill."""
STEEPER: Final = 2.0
"""What one more may cost in the second half, in what it costs in the first."""
FLAT: Final = 1.25
"""What the last may cost in the first, of what must not grow."""
VARIANTS: Final = 64

WITH_BASELINE: Final = [signal.name for signal in SIGNALS if signal.baseline]
OTHERS: Final = [signal.name for signal in SIGNALS if not signal.baseline]
NAMES: Final = WITH_BASELINE + OTHERS
USUAL_SIGNALS: Final = 40

_TARGETS: Final = {True: f"one more at most {STEEPER:g} times", False: f"at most {FLAT:g} times"}

Sizes = dict[int, float]
"""How many there are to microseconds a step."""


class Judged:
    """A run whose steps are made up, judged on this thread."""

    def __init__(
        self, signals: int = USUAL_SIGNALS, rules: int = len(RULES), world_size: int = 1, rank: int = 0
    ) -> None:
        identity = RunIdentity("growth", algorithm="", world_size=world_size, rank=rank)
        self.pipeline = Pipeline(identity, Settings(journal="off", rules=RULES[:rules]), None)
        chance = Random(0)
        names = NAMES[:signals]
        self._values = [{name: chance.gauss(1.0, 0.02) for name in names} for _ in range(VARIANTS)]
        self._step = 0

    def step(self) -> None:
        """Judge one more step."""
        self._step = step = self._step + 1
        end = step * 60_000_000
        record = StepRecord(
            step,
            step / 1e6,
            StepKind.GENERATE,
            end - 60_000_000,
            end,
            end,
            values=self._values[step % VARIANTS].copy(),
        )
        self.pipeline.step(record, 1000.0, 0.0)

    def scrape(self) -> None:
        """Encode what a scrape shows."""
        view = RunView(self.pipeline.identity, self.pipeline.snapshot)
        text_format.encode(RunsCollector(lambda: [view]).collect(), openmetrics=True)


def phased(phases: int, recorder: PhaseRecorder) -> int:
    """Phases of one step, as the training thread notes them; returns the step's number."""
    outer = recorder.begin("rollout")
    for _ in range(phases - 1):
        recorder.end(recorder.begin("reward_function", "f"))
    recorder.end(outer)
    return recorder.end_step()


def microseconds(
    work: Callable[[], object],
    blocks: int = BLOCKS,
    block: int = BLOCK,
    between: Callable[[], object] = lambda: None,
) -> float:
    """CPU of one call, as the median of blocks, between which something else is done."""
    times = []
    for _ in range(blocks):
        between()
        began = thread_time_ns()
        for _ in range(block):
            work()
        times.append((thread_time_ns() - began) / block / 1e3)
    return median(times)


def judging(make: Callable[[int], Judged], sizes: Iterable[int], blocks: int) -> Sizes:
    """What judging a step costs, by size."""
    found = {}
    for size in sizes:
        run = make(size)
        for _ in range(WARM_UP):
            run.step()
        found[size] = microseconds(run.step, blocks)
    return found


def noting(sizes: Iterable[int], blocks: int) -> Sizes:
    """What the phases of a step cost the training thread."""

    def cost(recorder: PhaseRecorder, size: int) -> float:
        def forget() -> None:
            recorder.take_step(recorder.end_step())

        return microseconds(partial(phased, size, recorder), blocks, PHASED_BLOCK, forget)

    return {size: cost(PhaseRecorder(), size) for size in sizes}


def nesting(sizes: Iterable[int], blocks: int) -> Sizes:
    """What they cost both threads."""

    def step(size: int, recorder: PhaseRecorder) -> None:
        nest(recorder.take_step(phased(size, recorder)))

    return {size: microseconds(partial(step, size, PhaseRecorder()), blocks, PHASED_BLOCK) for size in sizes}


def so_far(steps: int, blocks: int) -> tuple[Sizes, Sizes]:
    """What judging a step and a scrape cost after so many steps."""
    run, judged, scraped = Judged(), {}, {}
    done = 0
    for size in (1000, steps // 10, steps):
        while done < size:
            run.step()
            done += 1
        judged[size], scraped[size] = (
            microseconds(run.step, blocks),
            microseconds(run.scrape, blocks, block=2),
        )
        done += blocks * BLOCK
    return judged, scraped


def measure(steps: int, blocks: int) -> dict[str, tuple[Sizes, bool]]:
    """All series of numbers by name, and whether they may grow."""
    judged, scraped = so_far(steps, blocks)
    few, phases = (15, 30, 60, 120), (12, 48, 192, 768)
    return {
        "judging, signals": (judging(lambda size: Judged(signals=size), few, blocks), True),
        "judging, rules": (judging(lambda size: Judged(signals=145, rules=size), (13, 27, 54, 108), blocks), True),
        "noting, phases": (noting(phases, blocks), True),
        "noting and nesting, phases": (nesting(phases, blocks), True),
        "judging on rank 0, ranks": (judging(lambda size: Judged(world_size=size), (1, 8, 64, 512), blocks), False),
        "judging on rank 1, ranks": (judging(lambda size: Judged(world_size=size, rank=1), (2, 8, 64, 512), blocks), False),
        "judging, steps so far": (judged, False),
        "a scrape, steps so far": (scraped, False),
    }  # fmt: skip


def steepness(sizes: Sizes) -> float:
    """What one more costs from the second size but one to the last, in what it costs before."""
    (first, *_, middle, last) = sorted(sizes)
    before = (sizes[middle] - sizes[first]) / (middle - first)
    after = (sizes[last] - sizes[middle]) / (last - middle)
    return after / before if before > 0 else 0.0


def grown(sizes: Sizes) -> float:
    """The last, in the first."""
    return sizes[max(sizes)] / sizes[min(sizes)]


def main() -> int:
    """Measure, print, and fail when something grows that must not, or faster than in proportion."""
    parser = argument_parser(__doc__, quick="few steps: does it run at all")
    parser.add_argument("--steps", type=int, default=100_000, help="so far, at most (default: %(default)s)")
    arguments = parser.parse_args()
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)  # what it finds in made-up numbers

    print(headline())
    print("µs of CPU a step")
    found = measure(*((20_000, 2) if arguments.quick else (arguments.steps, BLOCKS)))
    missed, figures = [], []
    for name, (sizes, may_grow) in found.items():
        ratio = steepness(sizes) if may_grow else grown(sizes)
        if ratio > (STEEPER if may_grow else FLAT):
            missed.append(name)
        numbers = ", ".join(f"{size:,}: {cost:.1f}" for size, cost in sizes.items())
        said = (
            f"one more costs {ratio:.2f} times as much at the end"
            if may_grow
            else f"{ratio:.2f} times the first"
        )
        print(f"{name:<26} {numbers} ({said})")
        figures.append(Figure(name, f"{numbers} µs; {said}", _TARGETS[may_grow], name not in missed))
    if arguments.json:
        numbers_of = {name: sizes for name, (sizes, _) in found.items()}
        write_report(arguments.json, ["rlhf-otel"], {"us": numbers_of, "figures": figures})
    print(
        f"target: linear, and not with ranks or steps so far: {'missed by ' + ', '.join(missed) if missed else 'met'}"
    )
    return 1 if missed and not arguments.quick else 0


if __name__ == "__main__":
    sys.exit(main())
