"""The scores of PPO's reward model, which TRL's PPO asks for by a function of its module."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def watched(trainer: Any, observe: Callable[[list[float]], object]) -> Iterator[None]:
    """While it lasts, ``observe`` gets the scores of each batch; values under the value model are left out."""
    module = sys.modules[type(trainer).__module__]
    original = getattr(module, "get_reward", None)
    if original is None:
        yield
        return

    def get_reward(model: Any, *arguments: Any, **named: Any) -> Any:
        found = original(model, *arguments, **named)
        if model is trainer.reward_model:
            observe(found[1].detach().float().flatten().tolist())
        return found

    module.get_reward = get_reward  # type: ignore[attr-defined]  # of TRL's module
    try:
        yield
    finally:
        module.get_reward = original  # type: ignore[attr-defined]
