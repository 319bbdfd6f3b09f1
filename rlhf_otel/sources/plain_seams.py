"""Phases of trainers that TRL does not profile, or profiles in part: preference trainers, SFT, self-distillation.

Their loss is one method. A reference model or teacher that they hold is called inside it, and is seen by hooks on
that module; the policy's own forward pass is not (a hook on a compiled model would break its graph), so that it
counts as "loss".
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, Final

from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder
from rlhf_otel.sources.wrapping import Wrappers, timed

_PAIRS: Final[dict[str, str]] = {
    "_generate_completions": "generate",
    "_compute_rewards": "reward",
    "_compute_logprobs": "forward",
    "_compute_losses": "loss",
}
METHODS: Final[dict[str, dict[str, str]]] = {
    "a2po": {"_prepare_inputs": "rollout", "_calculate_rewards": "reward"},
    "gkd": {"generate_on_policy_outputs": "generate"},
    "nashmd": _PAIRS,
    "onlinedpo": {"_calculate_rewards_from_functions": "reward"},
    "sdft": {"_prepare_inputs": "rollout", "_generate": "generate"},
    "sdpo": {"_prepare_inputs": "rollout", "_generate": "generate", "_calculate_rewards": "reward"},
    "ssd": {"_prepare_inputs": "rollout", "_generate_completion_ids": "generate"},
    "xpo": _PAIRS,
}
"""Algorithm to its methods that are phases."""

_LOG_PROBABILITIES: Final = "_get_per_token_logps_and_entropies"


def attach(trainer: Any, algorithm: str, recorder: PhaseRecorder, wrappers: Wrappers) -> None:
    """Set wrappers and hooks."""
    for method, phase in METHODS.get(algorithm, {}).items():
        wrappers.wrap(trainer, method, functools.partial(timed, recorder, phase))
    if not _is_profiled(trainer, "compute_loss"):
        wrappers.wrap(trainer, "compute_loss", functools.partial(timed, recorder, "loss"))
    if not hasattr(trainer, _LOG_PROBABILITIES):
        _hook(getattr(trainer, "ref_model", None), recorder, wrappers)
    _hook(getattr(trainer, "teacher_model", None), recorder, wrappers, "teacher")


def times_reward_functions(algorithm: str) -> bool:
    """Whether reward functions of this trainer are ours to time, since TRL does not."""
    return "reward" in METHODS.get(algorithm, {}).values()


def _is_profiled(trainer: Any, method: str) -> bool:
    """Whether TRL's ``profiling_decorator`` is on it already."""
    return hasattr(inspect.getattr_static(type(trainer), method, None), "__wrapped__")


def _hook(module: Any, recorder: PhaseRecorder, wrappers: Wrappers, detail: str = "") -> None:
    if not hasattr(module, "register_forward_pre_hook"):
        return
    opened: list[OpenInterval] = []

    def begin(*_: Any) -> None:
        opened.append(recorder.begin("reference_logprobs", detail))

    def end(*_: Any) -> None:
        if opened:
            recorder.end(opened.pop())

    wrappers.add(module.register_forward_pre_hook(begin).remove)
    wrappers.add(module.register_forward_hook(end, always_call=True).remove)
