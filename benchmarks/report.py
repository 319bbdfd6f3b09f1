"""How long the report of a long run takes, and how large it is.

    python benchmarks/report.py [--steps 10000]

The journal is that of a GRPO run with three reward functions: 40 signals, phases and histograms in each step, checkpoints,
evaluations and some anomalies. The command runs as a process, so that start-up counts.
Processor time decides, so that a busy machine hardly shows; the best of some rounds.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

from machine import argument_parser, headline, write_report

from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.journal_records import end_record, run_record
from rlhf_otel.records import RunEnd, RunIdentity

MAX_SECONDS: Final = 5.0
MAX_BYTES: Final = 5_000_000
ROUNDS: Final = 3
PROGRAM: Final = "from rlhf_otel.cli import main; main()"
NAMES: Final = [signal.name for signal in SIGNALS if signal.baseline or signal.watch_nonfinite][:40]
FUNCTIONS: Final = ("correctness", "format", "brevity")
PHASES: Final = (
    ("data", -1), ("rollout", -1), ("generate", 1), ("reward", 1), ("reward_function", 3), ("loss", -1), ("backward", -1),
    ("optimizer", -1),
)  # fmt: skip


def step(number: int, dice: random.Random) -> dict[str, Any]:
    """One step's record."""
    values = {name: 1.0 + number * 1e-5 + dice.gauss(0, 0.1) for name in NAMES}
    histogram = {"low": 0.0, "high": 1.0, "counts": [dice.randrange(9) for _ in range(10)]}
    return {
        "type": "step",
        "step": number,
        "time": 1.7e9 + number,
        "epoch": number / 1000,
        "kind": "generate",
        "duration_ms": 1000.0,
        "values": {**values, "step_duration": 1.0 + dice.random() * 0.1},
        "reward_functions": {name: [dice.random(), dice.random()] for name in FUNCTIONS},
        "reward_histograms": dict.fromkeys(FUNCTIONS, histogram),
        "phases": [
            [name, "", 100.0 * i, 90.0 + dice.random(), parent] for i, (name, parent) in enumerate(PHASES)
        ],
    }


def write_journal(folder: Path, steps: int) -> None:
    """The whole run's."""
    dice, journal = random.Random(0), JournalWriter(folder)
    journal.write(run_record(RunIdentity("long", algorithm="grpo"), {"beta": 0.04}, time_ns=int(1.7e18)))
    for number in range(1, steps + 1):
        journal.write(step(number, dice))
        if number % 500 == 0:
            saved = {"step": number, "time": 1.7e9 + number, "path": f"checkpoint-{number}"}
            journal.write({"type": "checkpoint", **saved})
            journal.write(
                {"type": "checkpoint_analysis", **saved, "health": 0.98, "drift": 0.01, "seconds": 1.0}
            )
            journal.write(
                {"type": "evaluation", "step": number, "time": saved["time"], "values": {"reward": 0.5}}
            )
    journal.write(end_record(RunEnd(Outcome.FINISHED, int((1.7e9 + steps) * 1e9), steps)))
    journal.close()


def measured(folder: Path, form: str) -> tuple[float, float, int]:
    """Processor and wall time in seconds, each the best, and the file's bytes."""
    out, processor, wall = folder.parent / f"report{form}", float("inf"), float("inf")
    command = [sys.executable, "-c", PROGRAM, "report", str(folder), "--out", str(out)]
    for _ in range(ROUNDS):
        begun, spent = time.perf_counter(), children_s()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = min(wall, time.perf_counter() - begun)
        processor = min(processor, children_s() - spent)
    return processor, wall, out.stat().st_size


def children_s() -> float:
    """Processor time of finished processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """Print the figures; 1 when a target is missed."""
    parser = argument_parser(__doc__.splitlines()[0], quick="few steps: does it run at all")
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()
    steps = 500 if given.quick else given.steps
    print(headline())
    found: dict[str, Any] = {"steps": steps}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "journal"
        write_journal(folder, steps)
        written = sum(file.stat().st_size for file in folder.iterdir())
        print(f"journal of {steps} steps: {written / 1e6:.1f} MB")
        for form in (".html", ".md", ".json"):
            seconds, wall, size = measured(folder, form)
            found[form] = {"seconds": seconds, "wall_seconds": wall, "bytes": size}
            print(f"report{form:<6} {seconds:5.2f} s (wall {wall:.2f} s)  {size / 1e6:5.2f} MB")
    if given.json:
        write_report(given.json, ["rlhf-otel"], found)
    missed = found[".html"]["seconds"] > MAX_SECONDS or found[".html"]["bytes"] > MAX_BYTES
    print(f"targets (HTML in {MAX_SECONDS:g} s, {MAX_BYTES / 1e6:g} MB): {'missed' if missed else 'met'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
