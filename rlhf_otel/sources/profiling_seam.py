"""TRL's profiling seam: ``ProfilingContext`` is entered on every rank around each phase that TRL times.

The class is patched once, reversibly: ``profiling_context`` is imported by value into the trainers, so that
patching the function would miss them. A context names its trainer's class and a part of it; it holds no
trainer, so that the recorder of the run in progress is asked.
"""

from __future__ import annotations

from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.sources.phases import PhaseRecorder

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

_recorder: PhaseRecorder | None = None
_reward_functions: frozenset[str] = frozenset()
_named: dict[str, tuple[str, str] | None] = {}
"""What :func:`phase_of` said, by name; a run has few."""
_original: tuple[Any, Any] | None = None


def activate(recorder: PhaseRecorder | None, reward_functions: frozenset[str] = frozenset()) -> None:
    """Send phases to ``recorder`` from now on; ``None`` stops that."""
    global _recorder, _reward_functions
    _recorder, _reward_functions = recorder, reward_functions
    _named.clear()


def phase_of(context_name: str) -> tuple[str, str] | None:
    """Phase and detail of a context such as ``GRPOTrainer.compute_loss``; None if timed elsewhere."""
    name = context_name.partition(".")[2] or context_name
    if name in _WRAPPED_ELSEWHERE:
        return None
    if name in _reward_functions:
        return "reward_function", name
    return PHASE_OF_CONTEXT.get(name, "other"), name


def _known(context_name: str) -> tuple[str, str] | None:
    named = _named[context_name] = phase_of(context_name)
    return named


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
        recorder = _recorder
        if recorder is not None:
            try:
                name = self.name
                named = _named[name] if name in _named else _known(name)
                if named is not None:
                    self._rlhf_otel_opened = recorder, recorder.begin(named[0], named[1])
            except Exception as error:  # noqa: BLE001 - faults logs it
                faults.handle("phases", error, "beginning a phase")
        return enter(self)

    def __exit__(self: Any, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        opened = self._rlhf_otel_opened
        if opened is not None:
            self._rlhf_otel_opened = None
            try:
                opened[0].end(opened[1], exc_type is not None)
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
