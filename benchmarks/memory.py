"""Memory of a long run: does it stay flat, and how many bytes of journal does a step cost?

    python benchmarks/memory.py [--steps 1000000] [--json FILE] [--quick]

The stub trainer steps with everything on. Now and then the background thread is waited for, so that nothing is dropped;
what the trainer itself keeps for ever (its log history) is forgotten.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import offline  # before what it keeps off the network
import psutil
import torch
from figures import Figure
from machine import argument_parser, headline, write_report
from stub_trainer import StubTrainer

from rlhf_otel import TelemetryCallback

SETTLED: Final = 10_000
"""Steps after which memory is to be flat."""
TARGET_MIB: Final = 5.0
BATCH: Final = 200
"""Steps between two looks at the background thread: far from filling its queue."""


def measure(steps: int, settled: int) -> dict[str, Any]:
    """Resident memory after ``settled`` steps, now and then, and at the end, in MiB."""
    directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
    callback = TelemetryCallback(metrics_port=0, journal=directory, linger_s=0.0)
    trainer = StubTrainer([callback], directory, steps)
    trainer.begin()
    assert callback.run is not None
    resident: dict[int, float] = {}
    looks = {settled, steps, *range(settled, steps, max(BATCH, steps // 20 // BATCH * BATCH))}
    for step in range(1, steps + 1):
        trainer.step()
        if step % BATCH == 0:
            callback.run.pipeline.flush(60.0)
            trainer.state.log_history.clear()
            forget_full_files(directory)
        if step in looks:
            resident[step] = psutil.Process().memory_info().rss / 2**20
            print(f"{step:>9} steps {resident[step]:8.1f} MiB", flush=True)
    counts = callback.run.pipeline.telemetry(0, 0.0)
    trainer.end()
    return {
        "steps": steps,
        "resident_mib": resident,
        "growth_mib": max(resident.values()) - resident[settled],
        "journal_bytes_a_step": counts.journal_bytes / steps,
        "dropped": dict(counts.dropped),
    }


def forget_full_files(directory: Path) -> None:
    """Remove the files that are full: a million steps are some gigabytes."""
    for file in sorted(directory.glob("journal-*.jsonl"))[:-1]:
        file.unlink()


def main() -> int:
    """Measure, print, and fail when memory grows or a step was dropped."""
    parser = argument_parser(__doc__, quick="2,000 steps: does it run at all")
    parser.add_argument("--steps", type=int, default=1_000_000, help="default: %(default)s")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)  # what it finds in made-up numbers

    print(headline())
    steps = 2000 if arguments.quick else max(2 * BATCH, arguments.steps // BATCH * BATCH)
    found = measure(steps, min(SETTLED, steps // 2 // BATCH * BATCH))
    dropped = sum(found["dropped"].values())
    print(f"grew by {found['growth_mib']:.1f} MiB; journal {found['journal_bytes_a_step']:.0f} bytes a step")
    if arguments.json:
        figures = [
            Figure.at_most(
                f"growth over {steps:,} steps, after the first ones", found["growth_mib"], TARGET_MIB, "MiB"
            ),
            Figure("journal", f"{found['journal_bytes_a_step']:.0f} bytes a step"),
            Figure("dropped", f"{dropped} of {steps:,} steps", "none", dropped == 0),
        ]
        write_report(arguments.json, ["rlhf-otel", "trl"], found | {"figures": figures})
    missed = not arguments.quick and (found["growth_mib"] >= TARGET_MIB or dropped > 0)
    print(f"target: less than {TARGET_MIB:g} MiB, none of {steps} dropped: {'missed' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
