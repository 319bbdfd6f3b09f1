"""Makes journals of real tiny runs, with injected faults and without: the evidence of ``detection.py``.

    python benchmarks/injected_runs.py CACHE --seeds 5

Each run is a child of one process that has imported torch and TRL. Beside its journal lies ``label.json``
with the fault, its step and the variant. A run that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import rare_faults
from injected_faults import EXPECTED, fault, hackable
from rare_faults import RARE
from real_trainers import Samples, build

STEPS: Final = 120
FAULT_STEP: Final = 40
STEPS_OF_FAULTY: Final = 78
LONGER: Final[dict[str, int]] = {"memory-leak": 100}
"""Steps of runs whose fault shows only after a while."""
TIME_LIMIT_S: Final = 900
HEALTHY: Final = "healthy"
RARE_RUNS: Final = "rare"


class Plan(NamedTuple):
    """One run to be made."""

    fault: str
    seed: int
    variant: str
    changes: dict[str, Any]
    steps: int = STEPS

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.fault}-{self.variant}-{self.seed}"


VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "slow-lr": {"learning_rate": 2e-5},
    "flat": {"learning_rate": 1e-7},
    "fast-lr": {"learning_rate": 4e-4},
    "beta-0": {"beta": 0.0},
    "beta-0.02": {"beta": 0.02},
    "groups-of-4": {"num_generations": 4},
    "groups-of-16": {"num_generations": 16},
    "reuse": {"num_iterations": 2},
    "linear": {"lr_scheduler_type": "linear", "warmup_steps": 10},
    "rloo": {"trainer": "rloo"},
    "dpo": {"trainer": "dpo"},
    "sft": {"trainer": "sft"},
    "binary": {"reward": "binary"},
    "wide": {"hidden_size": 96},
    "long": {"steps": 300},
}


def plans(seeds: int, faults: Sequence[str]) -> Iterator[Plan]:
    """All runs, breadth first: a first seed of everything before a second of anything."""
    for seed in range(1, seeds + 1):
        for name in faults:
            if name == RARE_RUNS and seed == 1:
                yield from (Plan(rare, 1, RARE_RUNS, kept.changes, kept.steps) for rare, kept in RARE.items())
            elif name not in (HEALTHY, RARE_RUNS):
                yield Plan(name, seed, "plain", {}, LONGER.get(name, STEPS_OF_FAULTY))
        for variant, changes in VARIANTS.items():
            if HEALTHY in faults and (seed == 1 or variant != "long"):
                own = dict(changes)
                yield Plan(HEALTHY, seed, variant, own, own.pop("steps", STEPS))


def make(plan: Plan, directory: Path) -> None:
    """Train one run in this process; its journal goes to ``directory``."""
    os.environ.update(
        RLHF_OTEL_METRICS_PORT="off",
        RLHF_OTEL_JOURNAL=str(directory),
        RLHF_OTEL_RUN_ID=plan.name,
        RLHF_OTEL_SYSTEM_INTERVAL_S="1",
    )
    from rlhf_otel import TelemetryCallback
    from rlhf_otel.demo import faults, rewards
    from rlhf_otel.demo.breaking import BreakableRewards, Target
    from rlhf_otel.demo.train import Settings

    with TemporaryDirectory() as scratch:
        settings = Settings(
            Path(scratch), steps=plan.steps, seed=plan.seed, stall_seconds=20.0, fault_step=FAULT_STEP
        )
        functions = hackable(rewards.REWARD_FUNCTIONS)
        breakable = BreakableRewards.of(functions)
        samples = Samples(directory)
        trainer = build(
            plan.changes, settings, breakable.functions, [TelemetryCallback(), samples], directory.parent
        )
        samples.trainer = trainer
        label = {
            "fault": plan.fault,
            "step": FAULT_STEP if plan.fault != HEALTHY else None,
            "variant": plan.variant,
            "seed": plan.seed,
            "steps": plan.steps,
        }
        (directory / "label.json").write_text(json.dumps(label), encoding="utf-8")
        if plan.fault != HEALTHY:
            target = Target(
                trainer, BreakableRewards([*breakable.functions, *functions], breakable.responses)
            )
            struck = rare_faults.fault if plan.variant == RARE_RUNS else fault
            faults.inject(struck(plan.fault), target, settings.dose, settings.run_dir)
        trainer.train()


def _child(plan: Plan, directory: Path) -> int:
    """Fork, train, and return the child's exit status; -1 when it ran out of time."""
    directory.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        log = os.open(directory / "log.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        status = 0
        try:
            make(plan, directory)
        except BaseException:  # noqa: BLE001 - many faults are meant to end the run
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    deadline = time.monotonic() + TIME_LIMIT_S
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -1


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only", nargs="*", default=[HEALTHY, *EXPECTED], help="names of faults, healthy, or rare"
    )
    parser.add_argument("--part", default="0/1", help="K/N: the K-th of N processes that share the work")
    given = parser.parse_args(arguments)
    from rlhf_otel.demo.train import _prepare_process

    _prepare_process()
    import trl  # noqa: F401 - imported before the forks, and this too, as it is now:

    from rlhf_otel import TelemetryCallback  # noqa: F401
    from rlhf_otel.catalogue import rules  # noqa: F401

    part, parts = (int(number) for number in given.part.split("/"))
    for position, plan in enumerate(plans(given.seeds, given.only)):
        directory = given.cache / plan.name
        if position % parts != part or (directory / "label.json").exists():
            continue
        began = time.monotonic()
        status = _child(plan, directory)
        print(f"{plan.name}: exit {status}, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
