"""A run whose trainer is found only in the midst of its ``train()``: the callback was added to it afterwards.

python late.py FOLDER fail|stop
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tiny import build_trainer, variety
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback
from rlhf_otel.catalogue.actions import ActionKind

STRIKES = 4


class Deaf(TrainerCallback):
    """Asks to stop at a step, and makes the loop go on all the same."""

    def __init__(self, observer: TelemetryCallback) -> None:
        self._observer = observer

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run = self._observer.run
        if state.global_step == STRIKES and run is not None and run.actions is not None:
            run.actions.steering.ask(ActionKind.STOP, "a test")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = False


def main(folder: Path, how: str) -> None:
    calls = iter(range(1, 1000))

    def reward(completions: list[str], **_: Any) -> list[float]:
        if next(calls) > STRIKES and how == "fail":
            raise ConnectionError("the reward service hung up")
        return variety(completions)

    observer = TelemetryCallback(
        metrics_port="off", linger_s=0, actions=[{"rule": "NonFinite", "do": "stop"}]
    )
    trainer = build_trainer(folder, reward_funcs=[reward], max_steps=12)
    trainer.add_callback(observer)
    trainer.add_callback(Deaf(observer))
    trainer.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
