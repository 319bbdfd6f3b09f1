"""Thin wrappers around methods of one trainer instance: what its callbacks are not told.

Wrappers are set on the instance and taken away again by :meth:`TrainerSeams.detach`. They pass arguments,
results and exceptions through untouched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.sources.phases import PhaseRecorder
from rlhf_otel.sources.reward_functions import RewardFunctionCounts
from rlhf_otel.sources.scalars import ScalarReader

PHASE_OF_METHOD: Final[dict[str, str]] = {
    "get_batch_samples": "data",
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
        self._undo: list[Callable[[], None]] = []
        self.reward_functions = RewardFunctionCounts()

    @property
    def reward_function_names(self) -> frozenset[str]:
        """Names under which the trainer logs its reward functions."""
        return frozenset(getattr(self._trainer, "reward_func_names", ()) or ())

    def attach(self) -> None:
        """Set the wrappers. Methods that this trainer lacks are left out."""
        for method, phase in PHASE_OF_METHOD.items():
            self._wrap(self._trainer, method, functools.partial(self._timed, phase))
        for method, name in SCALAR_OF_METHOD.items():
            self._wrap(self._trainer, method, functools.partial(self._read, name))
        if not hasattr(self._trainer, "_get_grad_norm"):  # transformers 4
            accelerator = getattr(self._trainer, "accelerator", None)
            self._wrap(accelerator, "clip_grad_norm_", functools.partial(self._read, "grad_norm"))
        self._wrap(self._trainer, "_get_per_token_logps_and_entropies", self._log_probabilities)
        self._wrap(
            getattr(self._trainer, "accelerator", None),
            "backward",
            functools.partial(self._timed, "backward"),
        )
        self._wrap_reward_functions()

    def detach(self) -> None:
        """Put everything back as it was. Harmless when called again."""
        while self._undo:
            self._undo.pop()()

    def _wrap(
        self, owner: Any, method: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        original = getattr(owner, method, None)
        if original is None:
            return
        before = vars(owner).get(method)
        wrapper = functools.wraps(original)(make(original))
        setattr(owner, method, wrapper)

        def undo() -> None:
            if vars(owner).get(method) is not wrapper:
                return  # somebody wrapped it after us: theirs stays
            if before is None:
                delattr(owner, method)
            else:
                setattr(owner, method, before)

        self._undo.append(undo)

    def _timed(self, phase: str, original: Callable[..., Any]) -> Callable[..., Any]:
        recorder = self._recorder

        def timed(*args: Any, **kwargs: Any) -> Any:
            opened = recorder.begin(phase)
            failed = True
            try:
                result = original(*args, **kwargs)
                failed = False
                return result
            finally:
                recorder.end(opened, failed)

        return timed

    def _read(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            try:
                if result is not None:
                    self._scalars.add(name, result)
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("sources", error, f"reading the {name}")
            return result

        return read

    def _log_probabilities(self, original: Callable[..., Any]) -> Callable[..., Any]:
        timed = {
            phase: self._timed(phase, original)
            for phase in ("forward", "reference_logprobs", "policy_logprobs")
        }

        def log_probabilities(model: Any, *args: Any, **kwargs: Any) -> Any:
            return timed[self._log_probability_phase(model)](model, *args, **kwargs)

        return log_probabilities

    def _log_probability_phase(self, model: Any) -> str:
        """One method serves three purposes; tell them apart by where it is called and by the model."""
        if self._recorder.open_phase == "loss":
            return "forward"
        if model is getattr(self._trainer, "ref_model", None) or _adapter_is_off(model):
            return "reference_logprobs"
        return "policy_logprobs"

    def _wrap_reward_functions(self) -> None:
        functions = getattr(self._trainer, "reward_funcs", None)
        names = getattr(self._trainer, "reward_func_names", None)
        if not isinstance(functions, list) or not names or len(names) != len(functions):
            return
        before = list(functions)
        functions[:] = [self.reward_functions.wrap(f, name) for f, name in zip(before, names, strict=True)]
        wrapped = list(zip(functions, before, strict=True))

        def undo() -> None:  # the list may have changed since: what others put there stays
            for position, function in enumerate(functions):
                functions[position] = next(
                    (original for wrapper, original in wrapped if wrapper is function), function
                )

        self._undo.append(undo)


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
