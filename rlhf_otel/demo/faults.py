"""The faults that the demonstration injects into training, as data.

Every fault leaves the first steps of a run alone, bit for bit, and strikes at the beginning of one training
step. What is broken then stays broken for the rest of the run, evaluation included. The moment is written to
``fault.json`` just before the fault acts, so that the delay until each engine noticed can be told.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rlhf_otel.demo import breaking
from rlhf_otel.demo.breaking import Dose, Target

RECORD_NAME: Final = "fault.json"
NONE: Final = "none"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong in real runs, and the rules that say so: each of them fires, none explained away."""

    name: str
    explanation: str
    caught_by: tuple[str, ...]
    strike: Callable[[Target, Dose], None]


@dataclass(frozen=True)
class Record:
    """Which fault struck, at which step, and when (seconds since the epoch)."""

    fault: str
    step: int
    time: float


def default_step(steps: int) -> int:
    """Return a step by which baselines are settled and half of the run is still to come."""
    return max(1, round(steps * 0.45))


def inject(fault: Fault, target: Target, dose: Dose, run_dir: Path) -> None:
    """Arrange for the fault to strike when the trainer begins the step of the dose."""
    if fault.name == NONE:
        return
    trainer = target.trainer
    training_step = trainer.training_step
    pending = [fault]

    # Never taken off again: others, telemetry among them, may have wrapped the method after us.
    @functools.wraps(training_step)
    def struck(*args: Any, **kwargs: Any) -> Any:
        step = trainer.state.global_step + 1
        if pending and step >= dose.step:
            pending.clear()
            _write(Record(fault.name, step, time.time()), run_dir)
            fault.strike(target, dose)
        return training_step(*args, **kwargs)

    trainer.training_step = struck


def read_record(run_dir: Path) -> Record | None:
    """Return what struck in this run, or None while nothing has."""
    try:
        return Record(**json.loads((run_dir / RECORD_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _write(record: Record, run_dir: Path) -> None:
    """Write at once and whole: the next thing that happens may be SIGKILL."""
    draft = run_dir / f"{RECORD_NAME}.draft"
    draft.write_text(json.dumps(asdict(record)) + "\n", encoding="utf-8")
    draft.replace(run_dir / RECORD_NAME)


_ALL: Final = (
    Fault(
        NONE,
        "Nothing is injected: a healthy run, about which every rule is silent.",
        (),
        breaking.nothing,
    ),
    Fault(
        "learning-rate",
        "The learning rate becomes 100 times itself: the policy breaks, KL runs away, the reward collapses.",
        ("LearningRateJump", "KLRunaway", "RewardCollapse"),
        breaking.raise_learning_rate,
    ),
    Fault(
        "nan-reward",
        "One of three reward functions returns NaN: TRL leaves it out of the sum and trains on without it.",
        ("NonFinite",),
        breaking.nan_reward,
    ),
    Fault(
        "nan-gradient",
        "A NaN enters the gradient of one tensor: the weights are lost, and the next generation fails.",
        ("NonFinite", "RunFailed"),
        breaking.poison_gradient,
    ),
    Fault(
        "nan-loss",
        "The loss is NaN and its gradient finite: training goes on, and transformers logs a loss of 0.0.",
        ("NonFinite",),
        breaking.poison_loss,
    ),
    Fault(
        "constant-reward",
        "All reward functions answer 1.0 to everything: the reward looks perfect, no group has an advantage.",
        ("NoAdvantage",),
        breaking.constant_reward,
    ),
    Fault(
        "slow-reward",
        "One reward function takes 250 ms longer at each call, as a judge behind a busy network does.",
        ("RewardFunctionSlow",),
        breaking.slow_reward,
    ),
    Fault(
        "stall",
        "One reward function blocks for 45 s: no step ends meanwhile, then training goes on.",
        ("RunStalled",),
        breaking.stall,
    ),
    Fault(
        "truncation",
        "Generation may not produce the end token any more: completions run to the limit and are truncated.",
        ("TruncationJump", "CompletionLengthExplosion", "RewardCollapse"),
        breaking.never_end,
    ),
    Fault(
        "crash",
        "A reward function raises an exception, and training ends with it.",
        ("RunFailed",),
        breaking.crash,
    ),
    Fault(
        "kill",
        "The process is killed (SIGKILL), as the kernel does when memory runs out.",
        ("RunGone",),
        breaking.kill,
    ),
)
FAULTS: Final = {fault.name: fault for fault in _ALL}
"""By name, in the order in which they are listed."""
