"""How fast runs are replayed: steps a second on one core, with 30 signals and all rules.

    python benchmarks/replay.py [--steps 20000]

``judging`` is the baselines and the detector on step records in memory. The formats are the whole of
``rlhf-otel replay FILE --format json``, from opening the file to the report, each in a process of its own; only the
start of the process, which takes as long for one step, is left out. Processor time, so that a busy machine hardly
shows; the best of some rounds.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))

import click
from figures import Figure
from machine import argument_parser, headline, write_report

from rlhf_otel.catalogue.rules import RULES
from rlhf_otel.cli.replay import replay
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.journal_records import step_record
from rlhf_otel.replay import Replay, open_log

TARGET: Final = 20_000
ROUNDS: Final = 5
FORMATS: Final = ("log.jsonl", "trainer_state.json", "journal")

LEVELS: Final[dict[str, float]] = {
    "loss": 0.01,
    "grad_norm": 0.5,
    "learning_rate": 1e-6,
    "kl": 0.05,
    "entropy": 1.5,
    "clip_ratio/region_mean": 0.02,
    "clip_ratio/low_mean": 0.01,
    "clip_ratio/high_mean": 0.01,
    "clip_ratio/low_min": 0.001,
    "clip_ratio/high_max": 0.05,
    "sampling/sampling_logp_difference/mean": 0.01,
    "sampling/sampling_logp_difference/max": 0.3,
    "sampling/importance_sampling_ratio/mean": 1.0,
    "reward": 0.6,
    "reward_std": 0.2,
    "frac_reward_zero_std": 0.05,
    "rewards/correct/mean": 0.4,
    "rewards/correct/std": 0.3,
    "rewards/format/mean": 0.3,
    "rewards/format/std": 0.1,
    "completions/mean_length": 200.0,
    "completions/min_length": 40.0,
    "completions/max_length": 500.0,
    "completions/clipped_ratio": 0.05,
    "completions/mean_terminated_length": 180.0,
    "completions/min_terminated_length": 40.0,
    "completions/max_terminated_length": 480.0,
    "tools/call_frequency": 1.0,
    "tools/failure_frequency": 0.02,
    "step_time": 10.0,
}
"""Log key to the level of a healthy run."""


def log_dicts(steps: int) -> list[dict[str, Any]]:
    """A healthy run's log."""
    rng = random.Random(0)
    return [
        {key: level * rng.gauss(1, 0.1) for key, level in LEVELS.items()}
        | {"num_tokens": 3000.0 * step, "step": step, "timestamp": 1.7e9 + 10 * step + rng.random()}
        for step in range(1, steps + 1)
    ]


def judging(path: Path) -> float:
    """Seconds of judging the records of a log that has been read."""
    records = list(open_log(path).records)
    return _seconds(lambda: Replay().observe_all(records))


def whole(path: Path) -> float:
    """Seconds of the whole command."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(click.exceptions.Exit):
        replay.main(
            [str(path.parent / "first.jsonl")], standalone_mode=False
        )  # what is imported on first use
    arguments = [str(path), "--format", "json"]
    with contextlib.redirect_stdout(io.StringIO()):
        return _seconds(lambda: replay.main(arguments, standalone_mode=False))


def _seconds(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def in_a_process(what: Callable[[Path], float], path: Path) -> float:
    """``what`` of a log, measured in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(what, path).result()


def write_logs(folder: Path, steps: int) -> int:
    """One run in all formats; returns the number of its signals."""
    rows = log_dicts(steps)
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": rows}), encoding="utf-8")
    (folder / "log.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "first.jsonl").write_text(lines[0], encoding="utf-8")
    writer = JournalWriter(folder / "journal")
    writer.write({"type": "run", "version": 1, "run_id": "benchmark"})
    signals = 0
    for record in open_log(folder / "log.jsonl").records:
        writer.write(step_record(record))
        signals = len(record.values)
    writer.close()
    return signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when one is slower than the target."""
    parser = argument_parser(__doc__, quick="few steps: does it run at all")
    parser.add_argument("--steps", type=int, default=20_000)
    given = parser.parse_args(arguments)
    steps = 500 if given.quick else given.steps
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        signals = write_logs(folder, steps)
        print(
            f"{headline()}\n{steps} steps, {signals} signals, {len(RULES)} rules, steps a second on one core "
            f"(target {TARGET}):"
        )
        for name in ("judging", *FORMATS):
            what, path = (judging, FORMATS[0]) if name == "judging" else (whole, name)
            found[name] = steps / in_a_process(what, folder / path)
            print(f"  {name:<18}  {found[name]:8.0f}", flush=True)
    if given.json:
        figures = [
            Figure(name, f"{rate:,.0f} steps a second", f"at least {TARGET:,}", rate >= TARGET)
            for name, rate in found.items()
        ]
        report = {"steps": steps, "steps_per_second": found, "figures": figures}
        write_report(given.json, ["rlhf-otel"], report)
    return min(found.values()) < TARGET and not given.quick


if __name__ == "__main__":
    sys.exit(main())
