"""What ``overhead.py`` and ``traces.py`` compare: ours, the callbacks that people have, and the least that is possible."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from transformers import TrainerCallback
from trl.extras.profiling import ProfilingContext

from rlhf_otel.callback import calling_trainer

OURS: Final = "rlhf_otel"
BARE: Final = "no callback"
AGAIN: Final = "no callback, again"
FLOOR: Final = "floor: times and log"
NO_OP: Final = "no-op callback"
PACKAGES: Final = (
    "rlhf-otel", "trl", "transformers", "torch", "tensorboard", "wandb", "trackio", "mlflow-skinny", "rldoctor",
    "rlprobe", "rlwatch",
)  # fmt: skip


@dataclass
class Peer:
    """A callback to measure."""

    name: str
    make: Callable[[Path], list[TrainerCallback]]
    clean_up: Callable[[], None] = lambda: None
    """Leave nothing of a run behind that would slow the next one."""
    skipped: str = ""


class FloorCallback(TrainerCallback):
    """The least that anything can do which sees the phases, the scalars and the log of a step, and judges nothing on
    this thread: it reads the clock where they begin and end, keeps references, and hands them to a queue. No names,
    no nesting, no failures, no other threads, no isolation of faults."""

    def __init__(self) -> None:
        self._notes: list[Any] = []
        self._queue: deque[tuple[Any, ...]] = deque(maxlen=100)
        self._seam = ProfilingContext.__enter__, ProfilingContext.__exit__
        self._trainer: Any = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wrap what takes time, and what returns scalars or rewards."""
        self._trainer = trainer = calling_trainer()
        for owner, method in (
            (trainer, "get_batch_samples"),
            (trainer, "_get_per_token_logps_and_entropies"),
            (trainer.accelerator, "backward"),
        ):
            setattr(owner, method, self._timed(getattr(owner, method)))
        for method in ("training_step", "_get_grad_norm"):
            setattr(trainer, method, self._kept(getattr(trainer, method)))
        trainer.reward_funcs[:] = map(self._kept, trainer.reward_funcs)
        self._patch_seam()

    def _timed(self, original: Any) -> Any:
        note = self._notes.append

        def timed(*args: Any, **kwargs: Any) -> Any:
            note(perf_counter_ns())
            try:
                return original(*args, **kwargs)
            finally:
                note(perf_counter_ns())

        return timed

    def _kept(self, original: Any) -> Any:
        note = self._notes.append

        def kept(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            note(result)
            return result

        return kept

    def _patch_seam(self) -> None:
        note, (enter, leave) = self._notes.append, self._seam

        def __enter__(context: Any) -> Any:
            note(perf_counter_ns())
            return enter(context)

        def __exit__(context: Any, *raised: Any) -> Any:
            note(perf_counter_ns())
            return leave(context, *raised)

        ProfilingContext.__enter__, ProfilingContext.__exit__ = __enter__, __exit__  # type: ignore[method-assign]

    def restore(self) -> None:
        """Leave TRL as it was."""
        ProfilingContext.__enter__, ProfilingContext.__exit__ = self._seam  # type: ignore[method-assign]

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock."""
        self._notes.append(perf_counter_ns())

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock."""
        self._notes.append(perf_counter_ns())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hand on what there is, with the generation that the trainer's buffers will forget."""
        lists, logs = self._trainer._metrics["train"], self._trainer._logs
        rewards = [list(column) for column in logs["rewards"].values()]
        self._queue.append(
            (state.global_step, tuple(self._notes), dict(lists), rewards, list(logs["completion"]))
        )
        self._notes.clear()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Hand on a copy."""
        self._queue.append((state.global_step, dict(logs)))


_floors: list[FloorCallback] = []


def _floor(directory: Path) -> list[TrainerCallback]:
    _floors.append(FloorCallback())
    return [_floors[-1]]


def _clean_up_floor() -> None:
    _floors.pop().restore()


def _ours(directory: Path) -> list[TrainerCallback]:
    from rlhf_otel import TelemetryCallback

    return [TelemetryCallback(metrics_port=0, journal=directory, linger_s=0.0)]


def clean_up_ours() -> None:
    """Close the endpoint, and leave TRL as it was."""
    from rlhf_otel import serving
    from rlhf_otel.sources import profiling_seam

    serving.close()
    profiling_seam.uninstall()


def _tensorboard(directory: Path) -> list[TrainerCallback]:
    from transformers.integrations import TensorBoardCallback  # type: ignore[attr-defined]

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(directory)
    return [TensorBoardCallback()]  # type: ignore[no-untyped-call]


def _wandb(directory: Path) -> list[TrainerCallback]:
    from transformers.integrations import WandbCallback  # type: ignore[attr-defined]

    return [WandbCallback()]  # type: ignore[no-untyped-call]


def _clean_up_wandb() -> None:
    import wandb

    wandb.finish()


def _trackio(directory: Path) -> list[TrainerCallback]:
    from transformers.integrations import TrackioCallback  # type: ignore[attr-defined]

    return [TrackioCallback()]  # type: ignore[no-untyped-call]


def _rldoctor(directory: Path) -> list[TrainerCallback]:
    from rl_doctor.integrations.trl import RLDoctorCallback  # type: ignore[import-untyped]

    return [RLDoctorCallback()]


def _mlflow(directory: Path) -> list[TrainerCallback]:
    from transformers.integrations import MLflowCallback  # type: ignore[attr-defined]

    os.environ["MLFLOW_TRACKING_URI"] = (directory / "mlruns").as_uri()
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # the light package has no other that needs no server
    return [MLflowCallback()]  # type: ignore[no-untyped-call]


def _clean_up_mlflow() -> None:
    import mlflow  # type: ignore[import-not-found]

    mlflow.end_run()


def _rlprobe(directory: Path) -> list[TrainerCallback]:
    from rlprobe.integrations.trl import RlprobeCallback  # type: ignore[import-not-found]

    return [RlprobeCallback(directory / "rlprobe")]


def _rlwatch(directory: Path) -> list[TrainerCallback]:
    import rlwatch  # type: ignore[import-not-found]
    from rlwatch.core import _build_trl_callback  # type: ignore[import-not-found]

    return [_build_trl_callback(rlwatch.attach(framework="manual"))()]


def peers() -> list[Peer]:
    """In the order in which they run."""
    return [
        Peer(BARE, lambda directory: []),
        Peer(AGAIN, lambda directory: []),
        Peer(NO_OP, lambda directory: [TrainerCallback()]),
        Peer(FLOOR, _floor, _clean_up_floor),
        Peer(OURS, _ours, clean_up_ours),
        Peer("Trackio", _trackio),
        Peer("W&B offline", _wandb, _clean_up_wandb),
        Peer("TensorBoard", _tensorboard),
        Peer("MLflow", _mlflow, _clean_up_mlflow),
        Peer("rl-doctor", _rldoctor),
        Peer("rlprobe", _rlprobe),
        Peer("rlwatch", _rlwatch),
    ]
