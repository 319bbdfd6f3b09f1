"""A callback that keeps a run going until what is tested has happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from otlp_receiver import wait_until
from outcomes import STEPS
from transformers import TrainerCallback


class Awaiting(TrainerCallback):
    """Keeps a step, by default the last but one, from ending before ``condition`` holds."""

    def __init__(self, condition: Callable[[], bool], step: int = STEPS - 1) -> None:
        self.condition, self.step = condition, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            wait_until(self.condition, 60)
