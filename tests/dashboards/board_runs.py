"""Real runs for the boards, one after another in one process: python board_runs.py FOLDER TARGETS NAME ...

All save; All save; ``grpo`` evaluates and has a NaN; ``rloo`` waits for the analyses of its checkpoints. With ``gpu`` as name a
rank is served whose numbers are made up, since there is no GPU in a test.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACE_S = 0.25
"""Of a step: some scrapes of a second fall into each run."""
STEPS = 40
STRIKES = 30
SAVED_EVERY = 12
PATIENCE_S = 120
"""For analyses, which run at idle priority."""


def _observer(name: str, folder: Path, targets: Path, **settings: Any) -> Any:
    from rlhf_otel.callback import TelemetryCallback

    return TelemetryCallback(
        metrics_port=0,
        run_id=name,
        team="team",
        owner="me",
        file_sd=targets,
        journal=folder / "journal",
        **settings,
    )


def _monitor(names: Sequence[str]) -> Any:
    """Watches rewards of which there are scores from before, and labelled pairs."""
    from rlhf_otel.reward_model import RewardModelMonitor

    monitor = RewardModelMonitor(rescore_every=2)
    for name in names:
        monitor.set_reference(name, [number % 9 / 8 for number in range(128)])
        monitor.calibrate(name, [0.9, 0.7, 0.4, 0.8], [0.2, 0.1, 0.6, 0.3])
    return monitor


def _pace() -> Any:
    from transformers import TrainerCallback

    class Pace(TrainerCallback):
        def on_log(self, *args: Any, **kwargs: Any) -> None:
            time.sleep(PACE_S)

    return Pace()


def _analyses_awaited(folder: Path, wanted: int) -> Any:
    """Go on once so many checkpoints are analysed, shortly before the end."""
    from transformers import TrainerCallback

    def analysed() -> int:
        text = "".join(path.read_text(encoding="utf-8") for path in (folder / "journal").rglob("*.jsonl"))
        complete = text[: text.rfind("\n") + 1].splitlines()
        return sum(json.loads(line)["type"] == "checkpoint_analysis" for line in complete)

    class Await(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while state.global_step == STEPS - 2 and analysed() < wanted and time.monotonic() < deadline:
                time.sleep(0.1)

    return Await()


def grpo(folder: Path, targets: Path) -> None:
    from tiny import build_trainer, numbers, variety

    def broken(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        scores = variety(completions)
        return [math.nan, *scores[1:]] if trainer_state.global_step == STRIKES - 1 else scores

    broken.__name__ = variety.__name__
    monitor = _monitor(("variety", "numbers"))
    build_trainer(
        folder,
        [_observer("grpo", folder, targets, reward_monitor=monitor), _pace()],
        reward_funcs=(monitor.wrap(broken), monitor.wrap(numbers)),
        max_steps=STEPS,
        eval_prompts=8,
        eval_strategy="steps",
        eval_steps=10,
        save_strategy="steps",
        save_steps=SAVED_EVERY,
        logging_steps=1,
    ).train()


def other(name: str, folder: Path, targets: Path) -> None:
    for module, table in (
        ("tiny_trainers", "MAIN"),
        ("tiny_experimental", "EXPERIMENTAL"),
        ("tiny_older", "OLDER"),
    ):
        builders = getattr(importlib.import_module(module), table)
        if name in builders:
            callbacks = [_observer(name, folder, targets), _pace()]
            if name == "rloo":
                callbacks.append(_analyses_awaited(folder, 2))
            built = builders[name](
                folder, callbacks, max_steps=STEPS, save_strategy="steps", save_steps=SAVED_EVERY
            )
            built.train()
            return
    raise SystemExit(f"{name}: no such trainer")


def gpu(targets: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from simulated_ranks import SimulatedRank

    for rank in range(2):
        SimulatedRank(rank, 2, targets)
    sys.stdin.read()


def main(folder: Path, targets: Path, names: list[str]) -> None:
    for name in names:
        where = folder / name
        where.mkdir(parents=True)
        if name == "gpu":
            gpu(targets)
        elif name == "grpo":
            grpo(where, targets)
        else:
            other(name, where, targets)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
