"""Thin wrappers around methods of one trainer instance: what its callbacks are not told.

Wrappers are set on the instance and taken away again by :meth:`TrainerSeams.detach`. They pass arguments,
results and exceptions through untouched.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.sources import batches, plain_seams
from rlhf_otel.sources.phases import PhaseRecorder
from rlhf_otel.sources.ppo_seams import PPOSeams
from rlhf_otel.sources.reward_functions import RewardFunctionCounts
from rlhf_otel.sources.rollouts import RolloutVersions
from rlhf_otel.sources.run_identity import algorithm_of
from rlhf_otel.sources.scalars import ScalarReader
from rlhf_otel.sources.wrapping import Function, Wrappers, timed

PHASE_OF_METHOD: Final[dict[str, str]] = {
    "evaluate": "evaluation",
    "_save_checkpoint": "checkpoint",
}
SCALAR_OF_METHOD: Final[dict[str, str]] = {"training_step": "loss", "_get_grad_norm": "grad_norm"}
"""Methods whose result is a scalar that the log hides (loss: NaN is filtered) or shows only when logging."""


class TrainerSeams:
    """Observes one trainer."""

    def __init__(self, trainer: Any, recorder: PhaseRecorder, scalars: ScalarReader) -> None:
        self._trainer = trainer
        self._recorder = recorder
        self._scalars = scalars
        self._algorithm = algorithm_of(trainer)
        self._wrappers = Wrappers()
        self.reward_functions = RewardFunctionCounts()
        self.rollouts = RolloutVersions(trainer)
        self.follows_rollouts = False
        """Whether it is an asynchronous trainer; known once attached."""

    @property
    def reward_function_names(self) -> frozenset[str]:
        """Names under which the trainer logs its reward functions."""
        return frozenset(getattr(self._trainer, "reward_func_names", ()) or ())

    def attach(self) -> None:
        """Set the wrappers. Methods that this trainer lacks are left out."""
        wrap, trainer = self._wrappers.wrap, self._trainer
        accelerator = getattr(trainer, "accelerator", None)
        for method, phase in PHASE_OF_METHOD.items():
            wrap(trainer, method, functools.partial(self._timed, phase))
        for method, name in SCALAR_OF_METHOD.items():
            wrap(trainer, method, functools.partial(self._read, name))
        if not hasattr(trainer, "_get_grad_norm"):  # transformers 4
            wrap(accelerator, "clip_grad_norm_", functools.partial(self._read, "grad_norm"))
        wrap(trainer, "get_batch_samples", functools.partial(batches.timed, self._recorder))
        wrap(trainer, "_get_per_token_logps_and_entropies", self._log_probabilities)
        wrap(accelerator, "backward", functools.partial(self._timed, "backward"))
        self._wrap_reward_functions()
        self.follows_rollouts = self.rollouts.attach(self._wrappers)
        if self._algorithm == "ppo":
            PPOSeams(trainer, self._recorder).attach(self._wrappers)
        elif trainer is not None:
            plain_seams.attach(trainer, self._algorithm, self._recorder, self._wrappers)

    def detach(self) -> None:
        """Put everything back as it was. Harmless when called again."""
        self._wrappers.restore()

    def _timed(self, phase: str, original: Function) -> Function:
        return timed(self._recorder, phase, original)

    def _read(self, name: str, original: Function) -> Function:
        scalars = self._scalars

        def read(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            try:
                if result is not None:
                    scalars.add(name, result)
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("sources", error, f"reading the {name}")
            return result

        return read

    def _log_probabilities(self, original: Function) -> Function:
        """One method serves three purposes; tell them apart by where it is called and by the model."""
        recorder, trainer = self._recorder, self._trainer
        begin, end = recorder.begin, recorder.end

        def log_probabilities(model: Any, *args: Any, **kwargs: Any) -> Any:
            around = recorder.innermost
            if around is not None and around[0] == "loss":
                opened = begin("forward")
            elif model is getattr(trainer, "ref_model", None) or _adapter_is_off(model):
                opened = begin("reference_logprobs")
            else:
                opened = begin("policy_logprobs")
            try:
                result = original(model, *args, **kwargs)
            except BaseException:
                end(opened, True)
                raise
            end(opened)
            return result

        return log_probabilities

    def _wrap_reward_functions(self) -> None:
        functions = getattr(self._trainer, "reward_funcs", None)
        if not isinstance(functions, list) or not functions:
            return
        names = getattr(self._trainer, "reward_func_names", None)
        if not hasattr(self._trainer, "reward_func_names"):
            names = [_name_of(function) for function in functions]
        if not names or len(names) != len(functions):
            return
        before = list(functions)
        functions[:] = [self._observed(f, name) for f, name in zip(before, names, strict=True)]
        wrapped = list(zip(functions, before, strict=True))

        def undo() -> None:  # the list may have changed since: what others put there stays
            for position, function in enumerate(functions):
                functions[position] = next(
                    (original for wrapper, original in wrapped if wrapper is function), function
                )

        self._wrappers.add(undo)

    def _observed(self, function: Any, name: str) -> Any:
        wrapped = self.reward_functions.wrap(function, name)
        if wrapped is function or not plain_seams.times_reward_functions(self._algorithm):
            return wrapped
        if inspect.iscoroutinefunction(wrapped):
            return wrapped
        return functools.wraps(wrapped)(timed(self._recorder, "reward_function", wrapped, name))


def _name_of(function: Any) -> str:
    """As TRL names reward functions that it logs."""
    name = getattr(function, "__name__", None) or getattr(
        getattr(function, "config", None), "_name_or_path", ""
    )
    return str(name or type(function).__name__).rpartition("/")[2]


def _adapter_is_off(model: Any) -> bool:
    """Whether a PEFT model currently computes as its base model, or as the copy named "ref"."""
    inner = getattr(model, "module", model)
    if not hasattr(inner, "peft_config"):
        return False
    if getattr(inner, "active_adapter", None) == "ref":
        return True
    # Of an adapted layer it is a truth value; models of transformers have a method of that name.
    states = (getattr(module, "disable_adapters", None) for module in inner.modules())
    return next((state for state in states if isinstance(state, bool)), False)
