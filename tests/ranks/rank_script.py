"""What each rank runs under a launcher: a real GRPO run, told by ``RANK_TEST_*`` variables what to suffer.

``RANK_TEST_FOLDER``: where its files go. ``RANK_TEST_STEPS``: steps. ``RANK_TEST_PACE_S``: seconds that every
rank's reward function takes. ``RANK_TEST_SLOW``: ``rank:seconds`` more on one. ``RANK_TEST_NAN``: ``rank:step`` at
which that rank's rewards are NaN. ``RANK_TEST_DIE``: ``rank:step`` at which that rank kills itself.
``RANK_TEST_GENEROUS``: ``rank:step`` at which that rank's rewards are 1,000 more. ``RANK_TEST_PAUSE``: ``rank:step`` at which
its reward function takes two seconds more.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tiny import build_trainer
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback

RANK = int(os.environ["RANK"])


def mine(variable: str) -> float | None:
    """The variable's number, if it names this rank."""
    rank, _, number = os.environ.get(f"RANK_TEST_{variable}", "").partition(":")
    return float(number) if number and int(rank) == RANK else None


class Script(TrainerCallback):
    """Knows the step, and dies when told."""

    step = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        Script.step = state.global_step + 1
        if Script.step == mine("DIE"):
            os.kill(os.getpid(), signal.SIGKILL)


def variety(completions: list[str], **_: Any) -> list[float]:
    """Number of different words; slow, once or always, or NaN, where told."""
    time.sleep(float(os.environ.get("RANK_TEST_PACE_S", "0")) + (mine("SLOW") or 0.0))
    if Script.step == mine("PAUSE"):
        time.sleep(2.0)
    if Script.step == mine("NAN"):
        return [float("nan")] * len(completions)
    gift = 1000.0 if Script.step == mine("GENEROUS") else 0.0
    return [gift + len(set(text.split())) for text in completions]


def main() -> None:
    folder = Path(os.environ["RANK_TEST_FOLDER"])
    trainer = build_trainer(
        folder,  # the base model is there already: of several ranks only the first would save it
        [Script(), TelemetryCallback()],
        reward_funcs=(variety,),
        max_steps=int(os.environ["RANK_TEST_STEPS"]),
        ddp_backend="gloo",
    )
    trainer.train()


if __name__ == "__main__":
    main()
