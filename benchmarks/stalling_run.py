"""A run for ``stall.py``: the stub trainer's steps at a given pace, observed by the real callback, which hang when told.

The pace is kept in the first reward function; each step differs a little from the next, the first takes five times as long, as
one that compiles does, and evaluations and checkpoints lie between.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import offline
import torch
from stub_trainer import COMPLETIONS, StubTrainer

from rlhf_otel import TelemetryCallback

HANGS: Final[dict[str, Callable[[], object]]] = {
    "blocked reward": lambda: threading.Event().wait(),
    "GIL held": lambda: ctypes.PyDLL(None).sleep(3600),
    "SIGSTOP": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
"""Ways to hang, each in a reward function."""
FIRST_STEP: Final = 5.0
"""Length of the first step in usual steps."""
EVALUATE_EVERY, EVALUATION = 15, 6.0
"""Steps between evaluations, and the length of one in usual steps."""
SAVE_EVERY, CHECKPOINT = 10, 4.0


@dataclass(frozen=True)
class Plan:
    """One run. ``strike`` is the step in which it hangs, 0 for never; ``spread`` the deviation of the logarithm of a
    step's length."""

    run_id: str
    folder: Path
    targets: Path
    floor_s: float
    step_s: float
    steps: int
    spread: float = 0.1
    hang: str = ""
    strike: int = 0
    seed: int = 0

    @property
    def facts(self) -> Path:
        """Where the run writes when it began to hang, and how long its steps took before."""
        return self.folder / f"{self.run_id}.json"


class PacedTrainer(StubTrainer):
    """The stub, whose first reward function takes its time, with evaluations and checkpoints."""

    def __init__(self, plan: Plan, callback: TelemetryCallback, directory: Path) -> None:
        self._plan, self._chance = plan, random.Random(plan.seed)
        self._step_s: list[float] = []
        super().__init__([callback], directory, plan.steps)
        self.reward_funcs[0] = self._paced_reward

    def run(self) -> None:
        """All steps, with what lies between them."""
        self.begin()
        for step in range(1, self._plan.steps + 1):
            began = time.monotonic()
            self.step()
            self._step_s.append(time.monotonic() - began)
            if step % EVALUATE_EVERY == 0:
                self.evaluate()
            if step % SAVE_EVERY == 0:
                self._save_checkpoint(self.model, None)
        self.end()

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        time.sleep(EVALUATION * self._plan.step_s)
        found = {"eval_reward": 0.5}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        time.sleep(CHECKPOINT * self._plan.step_s)
        self.control = self.callback_handler.on_save(self.args, self.state, self.control)

    def _paced_reward(self, prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        step = self.state.global_step + 1
        if step == self._plan.strike:
            self._tell()
            HANGS[self._plan.hang]()
        usual = self._plan.step_s * (FIRST_STEP if step == 1 else 1.0)
        time.sleep(usual * self._chance.lognormvariate(0.0, self._plan.spread))
        return [self._chance.random() for _ in range(COMPLETIONS)]

    def _tell(self) -> None:
        partial = self._plan.facts.with_suffix(".partial")
        partial.write_text(json.dumps({"began": time.time(), "step_s": self._step_s}))
        partial.rename(self._plan.facts)


def train(plan: Plan) -> None:
    """The whole run, in this process."""
    torch.set_num_threads(1)
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)  # what it finds in made-up numbers
    directory = Path(offline.DIRECTORY) / plan.run_id
    directory.mkdir(parents=True, exist_ok=True)
    callback = TelemetryCallback(
        metrics_port=0,
        run_id=plan.run_id,
        journal=directory,
        file_sd=plan.targets,
        stall_floor_s=plan.floor_s,
    )
    PacedTrainer(plan, callback, directory).run()
