"""Phases of PPO (``trl.experimental.ppo`` to TRL 1.12), whose loop calls functions of its module.

A step is a rollout (generation, log-probabilities under the reference, values, scores) and then the update: some
epochs over it. The functions serve several models and are told apart by the model that they are given. The rollout
ends with the first forward pass of the policy being trained, and the update with the step's log.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final

from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder
from rlhf_otel.sources.wrapping import Function, Wrappers, timed

REWARD_MODEL: Final = "reward_model"
"""Name of the reward model among reward functions."""


class PPOSeams:
    """Observes one PPO trainer."""

    def __init__(self, trainer: Any, recorder: PhaseRecorder) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._rollout: OpenInterval | None = None
        self._update: OpenInterval | None = None

    def attach(self, wrappers: Wrappers) -> None:
        """Set the wrappers."""
        module = _module_of(self._trainer)
        wrappers.wrap(module, "batch_generation", self._generation)
        wrappers.wrap(module, "get_reward", self._scores)
        wrappers.wrap(module, "forward", self._forward)
        wrappers.wrap(getattr(self._trainer, "optimizer", None), "step", self._optimizer_step)
        evaluation = functools.partial(timed, self._recorder, "evaluation")
        wrappers.wrap(self._trainer, "generate_completions", evaluation)
        wrappers.wrap(self._trainer, "log", self._log)

    def _generation(self, original: Function) -> Function:
        generate = timed(self._recorder, "generate", original)

        def batch_generation(*args: Any, **kwargs: Any) -> Any:
            if self._rollout is None and self._recorder.open_phase != "evaluation":
                self._rollout = self._recorder.begin("rollout")
            return generate(*args, **kwargs)

        return batch_generation

    def _scores(self, original: Function) -> Function:
        score = timed(self._recorder, "reward_function", original, REWARD_MODEL)
        values = timed(self._recorder, "values", original)

        def get_reward(model: Any, *args: Any, **kwargs: Any) -> Any:
            scoring = model is getattr(self._trainer, "reward_model", None)
            return (score if scoring else values)(model, *args, **kwargs)

        return get_reward

    def _forward(self, original: Function) -> Function:
        policy = timed(self._recorder, "forward", original)
        reference = timed(self._recorder, "reference_logprobs", original)

        def forward(model: Any, *args: Any, **kwargs: Any) -> Any:
            if model is not self._trainer.model:
                return reference(model, *args, **kwargs)
            self._begin_update()
            return policy(model, *args, **kwargs)

        return forward

    def _begin_update(self) -> None:
        if self._update is not None:
            return
        if self._rollout is not None:
            self._recorder.end(self._rollout)
            self._rollout = None
        self._update = self._recorder.begin("update")

    def _optimizer_step(self, original: Function) -> Function:
        step = timed(self._recorder, "optimizer", original)

        def optimizer_step(*args: Any, **kwargs: Any) -> Any:
            # Accelerate lets the loop call it after every micro-batch and does nothing until the last.
            real = getattr(self._trainer.accelerator, "sync_gradients", True)
            return (step if real else original)(*args, **kwargs)

        return optimizer_step

    def _log(self, original: Function) -> Function:
        def log(*args: Any, **kwargs: Any) -> Any:
            if self._update is not None:
                self._recorder.end(self._update)
                self._update = None
            return original(*args, **kwargs)

        return log


def _module_of(trainer: Any) -> Any:
    """The module that defines PPOTrainer, also for a subclass of it."""
    defining = (cls.__module__ for cls in type(trainer).__mro__ if cls.__name__ == "PPOTrainer")
    return sys.modules.get(next(defining, ""))
