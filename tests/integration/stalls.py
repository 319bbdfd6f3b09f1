"""Ways in which a training process hangs, beside those in which it ends: ``scenarios.py`` says how each is started.

All but one train a tiny policy for real. Each runs until it is killed, where it does not end by itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scenarios import STEPS, STRIKES, Strike, main, train, unhurried

ENDLESS = 100_000
SLOW_S = 8.0
"""Of an evaluation: longer than what counts as a stall between steps."""


def _at_strike(action: Callable[[], object]) -> Callable[..., list[float]]:
    """A reward function that does something in step ``STRIKE``, by default that in which it happens elsewhere."""
    strike = int(os.environ.get("STRIKE", STRIKES))

    def reward(completions: list[str], trainer_state: Any, **_: Any) -> list[float]:
        if trainer_state.global_step == strike - 1:
            action()
        return unhurried(completions)

    return reward


def blocked_reward(folder: Path) -> None:
    """A reward service does not answer."""
    train(folder, reward_funcs=[_at_strike(threading.Event().wait)], max_steps=ENDLESS)


def gil_hang(folder: Path) -> None:
    """Native code holds the interpreter's lock for ever."""
    train(folder, reward_funcs=[_at_strike(lambda: ctypes.PyDLL(None).sleep(600))])


def stopped(folder: Path) -> None:
    """SIGSTOP."""
    train(folder, reward_funcs=[_at_strike(lambda: os.kill(os.getpid(), signal.SIGSTOP))])


def killed(folder: Path) -> None:
    """SIGKILL."""
    train(folder, reward_funcs=[_at_strike(lambda: os.kill(os.getpid(), signal.SIGKILL))])


def finish(folder: Path) -> None:
    """End well."""
    train(folder)


def terminate(folder: Path) -> None:
    """SIGTERM."""
    train(folder, Strike(lambda _: os.kill(os.getpid(), signal.SIGTERM)))


def long_evaluation(folder: Path) -> None:
    """An evaluation takes many times as long as a step."""
    evaluating = threading.Event()

    def reward(completions: list[str], **_: Any) -> list[float]:
        if not evaluating.is_set():
            return unhurried(completions)
        time.sleep(SLOW_S)
        return [1.0] * len(completions)

    class Evaluating(Strike):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            evaluating.clear()

    train(
        folder,
        Strike(lambda _: evaluating.set()),
        Evaluating(lambda _: None),
        reward_funcs=[reward],
        eval_strategy="steps",
        eval_steps=STRIKES,
        eval_prompts=2,
        max_steps=STEPS,
    )


def collective(folder: Path) -> None:
    """One of two ranks: the reward function of ``STRICKEN`` sends itself the signal ``BY``; the other waits for it, in a
    collective of gloo, which raises when the other one ends, or where ``FOR_EVER`` says so, for ever, as one of NCCL does."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()  # of the process that this one was forked from, which is no rank

    def strike() -> None:
        if os.environ["RANK"] == os.environ["STRICKEN"]:
            os.kill(os.getpid(), int(os.environ["BY"]))
        elif os.environ["FOR_EVER"] == "yes":
            threading.Event().wait()

    train(folder, reward_funcs=[_at_strike(strike)], ddp_backend="gloo", max_steps=ENDLESS)


if __name__ == "__main__":
    main(globals())
