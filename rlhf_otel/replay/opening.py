"""Which log is at a path, and how to read it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from rlhf_otel.errors import ReplayError
from rlhf_otel.exporters.journal import journal_files
from rlhf_otel.records import RunIdentity
from rlhf_otel.replay.following import Following, lines
from rlhf_otel.replay.log import Log
from rlhf_otel.replay.readers import journal, tables, trainer_state, verl
from rlhf_otel.replay.rows import RowAssembler

KNOWN: Final = (
    "a trainer_state.json, a JSON list of log dicts, a journal directory, a TensorBoard log directory, an "
    "offline run of W&B (run-*.wandb), CSV or JSON Lines (such as a W&B export), or the file of verl's file logger"
)
_CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)")


def open_log(path: str | Path, following: Following | None = None) -> Log:
    """The log at ``path``, whatever its format; with ``following``, one that is still growing.

    Raises ReplayError or JournalError where it cannot be read, some of it only on the way.
    """
    path = Path(path)
    if not path.exists():
        raise ReplayError(f"{path} does not exist")
    try:
        log = _open_directory(path, following) if path.is_dir() else _open_file(path, following)
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error.strerror}") from error
    if not log.identity.run_id:
        log.identity = RunIdentity(run_id=_run_id(path), run_name=path.name)
    return log


def _run_id(path: Path) -> str:
    """A name for a log that has none: its file's, or its folder's where all such files are called alike."""
    resolved = path.resolve()
    plain = resolved.stem if resolved.is_file() else resolved.name
    return f"{resolved.parent.name}-{plain}" if plain in ("trainer_state", "metrics", "log") else plain


def _open_directory(path: Path, following: Following | None) -> Log:
    for place in (path, path / "rlhf_otel"):
        if place.is_dir() and journal_files(place):
            return journal.read(place, following)
    if (path / "trainer_state.json").is_file():
        return _open_file(path / "trainer_state.json", following)
    checkpoints = [each for each in path.glob("checkpoint-*/trainer_state.json") if _number(each.parent) >= 0]
    if checkpoints:
        return _open_file(max(checkpoints, key=lambda each: _number(each.parent)), following)
    runs = sorted(path.glob("run-*.wandb"))
    if len(runs) == 1:
        return _open_wandb(runs[0], following)
    if next(path.rglob("*tfevents*"), None) is not None:
        return _open_tensorboard(path, following)
    raise ReplayError(f"{path} holds no log that can be replayed: {KNOWN}")


def _number(checkpoint: Path) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def _open_file(path: Path, following: Following | None) -> Log:
    if path.suffix == ".wandb":
        return _open_wandb(path, following)
    if "tfevents" in path.name:
        return _open_tensorboard(path, following)
    with path.open("rb") as file:
        first = file.readline(1 << 20)
        begin = first.lstrip()[:1]
    if not begin:
        raise ReplayError(f"{path} is empty")
    if begin == b"[" or (begin == b"{" and not _is_object(first)):
        return _open_state(path, following)
    if begin == b"{":
        return _open_objects(path, first, following)
    if path.suffix.lower() in (".csv", ".tsv", ".txt", ""):
        rows = tables.csv_rows(lines(path, following), path)
        return Log(path, tables.CSV).read_rows(rows, RowAssembler())
    raise ReplayError(f"{path} is no log that can be replayed: {KNOWN}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _open_state(path: Path, following: Following | None) -> Log:
    _, is_state = trainer_state.log_dicts(path)
    assembler = RowAssembler(null_is_nonfinite=is_state)
    return Log(path, trainer_state.FORMAT).read_rows(trainer_state.rows(path, following), assembler)


def _open_objects(path: Path, first: bytes, following: Following | None) -> Log:
    """A file whose first line is an object: what its keys say."""
    keys = json.loads(first).keys()
    if "log_history" in keys:
        return _open_state(path, following)
    if {"type", "version", "run_id"} <= keys:
        return journal.read(path, following)
    if {"step", "data"} <= keys:
        assembler = RowAssembler(verl.vocabulary)
        return Log(path, verl.FORMAT).read_rows(verl.rows(lines(path, following), path), assembler)
    rows = tables.jsonl_rows(lines(path, following), path)
    return Log(path, tables.JSONL).read_rows(rows, RowAssembler())


def _open_wandb(path: Path, following: Following | None) -> Log:
    from rlhf_otel.replay.readers import wandb_run

    return Log(path, wandb_run.FORMAT).read_rows(wandb_run.rows(path, following), RowAssembler())


def _open_tensorboard(path: Path, following: Following | None) -> Log:
    from rlhf_otel.replay.readers import tensorboard

    run = path if path.is_file() else tensorboard.run_directory(path)
    return Log(run, tensorboard.FORMAT).read_rows(tensorboard.rows(run, following), RowAssembler())
