"""TRL's profiling seam: ``ProfilingContext`` is entered on every rank around each phase that TRL times.

The class is patched once, reversibly: ``profiling_context`` is imported by value into the trainers, so that
patching the function would miss them. A context names its trainer's class and a part of it; it holds no
trainer, so that the recorder of the run in progress is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.sources.phases import OpenInterval, PhaseRecorder

PHASE_OF_CONTEXT: Final[dict[str, str]] = {
    "transformers.generate": "generate",
    "transformers.generate_batch": "generate",
    "vLLM.generate": "generate",
    "sync_weights": "weight_sync",
    "_prepare_inputs": "rollout",
    "_calculate_rewards": "reward",
    "compute_loss": "loss",
    "_fill_buffer": "rollout",
    "_generate_student_completions": "generate",
    "_generate_on_policy_for_slices": "generate",
}
"""The part of a context's name after the trainer's class, to the phase."""

_WRAPPED_ELSEWHERE: Final = frozenset({"_get_per_token_logps_and_entropies"})

_begin: Callable[[str, str], OpenInterval] | None = None
_end: Callable[[OpenInterval, bool], None] | None = None
"""Of the recorder that phases are sent to, if any."""
_reward_functions: frozenset[str] = frozenset()
_original: tuple[Any, Any] | None = None


def activate(recorder: PhaseRecorder | None, reward_functions: frozenset[str] = frozenset()) -> None:
    """Send phases to ``recorder`` from now on; ``None`` stops that."""
    global _begin, _end, _reward_functions
    _begin, _end = (recorder.begin, recorder.end) if recorder is not None else (None, None)
    _reward_functions = reward_functions
    _named.clear()


def phase_of(context_name: str) -> tuple[str, str] | None:
    """Phase and detail of a context such as ``GRPOTrainer.compute_loss``; None if timed elsewhere."""
    name = context_name.partition(".")[2] or context_name
    if name in _WRAPPED_ELSEWHERE:
        return None
    if name in _reward_functions:
        return "reward_function", name
    return PHASE_OF_CONTEXT.get(name, "other"), name


class _Named(dict[str, tuple[str, str] | None]):
    """What :func:`phase_of` said, by name; a run has few."""

    def __missing__(self, context_name: str) -> tuple[str, str] | None:
        named = self[context_name] = phase_of(context_name)
        return named


_named: Final = _Named()


def install() -> bool:
    """Patch the class, once. False where this TRL has none (before 0.27)."""
    global _original
    if _original is not None:
        return True
    try:
        from trl.extras.profiling import ProfilingContext
    except ImportError:
        return False
    patched: Any = ProfilingContext
    enter, leave = patched.__enter__, patched.__exit__

    def __enter__(self: Any) -> Any:
        begin = _begin
        if begin is not None:
            try:
                named = _named[self.name]
                if named is not None:
                    self._rlhf_otel_opened = begin(named[0], named[1]), _end
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("phases", error, "beginning a phase")
        return enter(self)

    def __exit__(self: Any, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        opened = self._rlhf_otel_opened
        if opened is not None:
            self._rlhf_otel_opened = None
            try:
                opened[1](opened[0], exc_type is not None)
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("phases", error, "ending a phase")
        return leave(self, exc_type, exc_val, exc_tb)

    patched._rlhf_otel_opened = None
    patched.__enter__, patched.__exit__ = __enter__, __exit__
    _original = (enter, leave)
    return True


def uninstall() -> None:
    """Put the class back as it was."""
    global _original
    if _original is not None:
        from trl.extras.profiling import ProfilingContext

        patched: Any = ProfilingContext
        patched.__enter__, patched.__exit__ = _original
        del patched._rlhf_otel_opened
        _original = None
