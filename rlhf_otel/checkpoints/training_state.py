"""Findings about what training is resumed from: trainer state, optimizer, scheduler, generators."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rlhf_otel.catalogue import checkpoints as limits
from rlhf_otel.checkpoints.contents import Contents
from rlhf_otel.checkpoints.findings import Finding
from rlhf_otel.checkpoints.measuring import measure
from rlhf_otel.checkpoints.pickles import Pickled, read_pickle
from rlhf_otel.errors import CheckpointError, UnsafePickle

_STEP_DIRECTORY: Final = re.compile(r"checkpoint-(\d+)")
_MAX_NAMED: Final = 5
OPTIMIZERS: Final = ("optimizer.pt", "optimizer.bin")


def state_findings(contents: Contents) -> Iterator[Finding]:
    """All findings about the training state in a directory that has one."""
    directory = contents.path
    if not directory.is_dir():
        return
    yield from _trainer_state(contents)
    yield from _optimizer(contents)
    yield from _scheduler(contents)
    yield from _generators(directory)
    yield from _missing(contents)


def step_of(contents: Contents) -> int | None:
    """The step that the checkpoint is of, by its state, else by its name."""
    step = (contents.trainer_state or {}).get("global_step")
    if type(step) is int and step >= 0:
        return step
    match = _STEP_DIRECTORY.fullmatch(contents.path.name)
    return int(match[1]) if match else None


def _trainer_state(contents: Contents) -> Iterator[Finding]:
    state, path = contents.trainer_state, contents.path / "trainer_state.json"
    if state is None:
        if path.exists():
            yield Finding("state-unreadable", path.name, "it is no JSON object")
        return
    step, named = state.get("global_step"), _STEP_DIRECTORY.fullmatch(contents.path.name)
    if type(step) is not int:
        yield Finding("state-unreadable", path.name, f"its global_step is {step!r:.40}")
    elif named and int(named[1]) != step:
        yield Finding(
            "state-mismatch", path.name, f"global_step is {step}, the directory is {contents.path.name}"
        )
    log = state.get("log_history")
    strange = [key for row in log or () for key in _nonfinite_keys(row)] if isinstance(log, list) else []
    if strange:
        keys = ", ".join(list(dict.fromkeys(strange))[:_MAX_NAMED])
        yield Finding("state-non-finite", path.name, f"{len(strange)} values of {keys}")


def _nonfinite_keys(row: Any) -> list[str]:
    """Keys that must be finite; others are NaN where there was nothing to average."""
    if not isinstance(row, Mapping):
        return []
    watched = ("loss", "grad_norm", "reward", "eval_loss", "learning_rate")
    return [key for key in watched if isinstance(row.get(key), float) and not math.isfinite(row[key])]


def _open(path: Path, numpy_too: bool = False) -> tuple[Pickled | None, list[Finding]]:
    if not path.exists():
        return None, []
    try:
        if not path.is_file():
            raise CheckpointError(f"{path} is no regular file")
        return read_pickle(path, numpy_too), []
    except UnsafePickle as error:
        return None, [Finding("unsafe-pickle", path.name, str(error))]
    except CheckpointError as error:
        return None, [Finding("state-unreadable", path.name, str(error))]


def _optimizer(contents: Contents) -> Iterator[Finding]:
    for name in OPTIMIZERS:
        pickled, problems = _open(contents.path / name)
        yield from problems
        if pickled is not None:
            yield from _moments(pickled, name)
            yield from _learning_rates(pickled.content, name, contents)


def _moments(pickled: Pickled, file: str) -> Iterator[Finding]:
    """Adam's: ``state.<parameter>.exp_avg`` and ``exp_avg_sq``; of other optimizers whatever is a float."""
    tensors = [tensor for tensor in pickled.tensors if not tensor.dtype.is_code]
    for tensor, measured in zip(tensors, measure([(tensor, None) for tensor in tensors]), strict=True):
        found, where = measured.moments, f"{file}: {tensor.name}"
        second = tensor.name.endswith("exp_avg_sq")
        if measured.error:
            yield Finding("state-unreadable", where, measured.error)
        elif found.nonfinite:
            yield Finding(
                "moments-non-finite", where, f"{found.nonfinite} of {found.size} are NaN or infinite"
            )
        elif second and found.low < 0.0:
            yield Finding(
                "moments-non-finite", where, f"second moment of {found.low:.4g}; it cannot be negative"
            )
        elif found.finite and _size(tensor.name, found.largest) > limits.MOMENT_LARGEST:
            yield Finding("moments-huge", where, f"largest magnitude {found.largest:.4g}")


def _size(name: str, largest: float) -> float:
    """In the unit of a gradient; 0 of what is none, such as the count of steps."""
    if name.endswith("exp_avg_sq"):
        return math.sqrt(largest)
    return largest if name.endswith(("exp_avg", "momentum_buffer")) else 0.0


def _learning_rates(content: Any, file: str, contents: Contents) -> Iterator[Finding]:
    groups = content.get("param_groups") if isinstance(content, Mapping) else None
    rates = [group.get("lr") for group in groups or () if isinstance(group, Mapping)]
    for position, rate in enumerate(rates):
        problem = _rate_problem(rate, contents)
        if problem:
            yield Finding("learning-rate", f"{file}: group {position}", problem)


def _rate_problem(rate: Any, contents: Contents) -> str:
    if not isinstance(rate, int | float) or isinstance(rate, bool):
        return ""  # a tensor, of fused or captured optimizers
    if not math.isfinite(rate) or rate < 0.0:
        return f"it is {rate}"
    if rate > limits.LEARNING_RATE_LARGEST:
        return f"it is {rate:g}; recipes for transformers stay below {limits.LEARNING_RATE_LARGEST:g}"
    state = contents.trainer_state or {}
    step, planned = state.get("global_step"), state.get("max_steps")
    if rate == 0.0 and type(step) is int and type(planned) is int and 1 < step < planned:
        return f"it is 0 at step {step} of {planned}: nothing more will be learnt"
    return ""


def _scheduler(contents: Contents) -> Iterator[Finding]:
    pickled, problems = _open(contents.path / "scheduler.pt")
    yield from problems
    content = pickled.content if pickled is not None else None
    rates = content.get("_last_lr") if isinstance(content, Mapping) else None
    for rate in rates if isinstance(rates, list) else []:
        problem = _rate_problem(rate, contents)
        if problem:
            yield Finding("learning-rate", "scheduler.pt", problem)


def _generators(directory: Path) -> Iterator[Finding]:
    for path in sorted(directory.glob("rng_state*.pth")):
        yield from _open(path, numpy_too=True)[1]


def _missing(contents: Contents) -> Iterator[Finding]:
    """Of a checkpoint that training could be resumed from but for what is missing."""
    directory = contents.path
    if contents.trainer_state is None:
        return
    names = {"optimizer": OPTIMIZERS, "scheduler": ("scheduler.pt",)}
    for what, files in names.items():
        if not any((directory / file).exists() for file in files) and not list(
            directory.glob("global_step*")
        ):
            yield Finding("state-missing", files[0], f"there is no state of the {what}")
    if not list(directory.glob("rng_state*.pth")):
        yield Finding("state-missing", "rng_state.pth", "there is no state of the random generators")
