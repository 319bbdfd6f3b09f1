"""Which log is at a path, and how to read it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from rlhf_otel.errors import ReplayError, refused_as
from rlhf_otel.exporters.journal import journal_files
from rlhf_otel.records import RunIdentity, StepRecord
from rlhf_otel.replay.following import Following, lines
from rlhf_otel.replay.log import Log
from rlhf_otel.replay.readers import journal, tables, trainer_state, verl
from rlhf_otel.replay.rows import Row, RowAssembler, TRLVocabulary

KNOWN: Final = (
    "a trainer_state.json, a JSON list of log dicts, a journal directory, a TensorBoard log directory, an "
    "offline run of W&B (run-*.wandb), CSV or JSON Lines (such as a W&B export), or the file of verl's file logger"
)
_CHECKPOINT: Final = re.compile(r"checkpoint-(\d+)")


class _How(NamedTuple):
    """How a log is to be read."""

    following: Following | None
    algorithm: str


def open_log(path: str | Path, following: Following | None = None, algorithm: str = "") -> Log:
    """The log at ``path``, whatever its format; with ``following``, one that is still growing.

    ``algorithm``, such as ``"rloo"``, says whose keys they are (``RunIdentity.algorithm``); else the keys tell as
    far as they can. A journal says it itself. Raises ReplayError or JournalError where the log cannot be read,
    some of it only on the way.
    """
    path = Path(path)
    if not path.exists():
        raise ReplayError(f"{path} does not exist")
    how = _How(following, algorithm)
    try:
        with refused_as(ReplayError, f"{path} is no log that can be replayed"):
            log = _open_directory(path, how) if path.is_dir() else _open_file(path, how)
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error.strerror}") from error
    log.records = _guarded(log.records, path)
    if not log.identity.run_id:
        log.identity = RunIdentity(run_id=_run_id(path), run_name=path.name)
    return log


def _guarded(records: Iterator[StepRecord], path: Path) -> Iterator[StepRecord]:
    """What a reader meets on the way, as errors of ours."""
    try:
        with refused_as(ReplayError, f"{path} holds what is not in such a log"):
            yield from records
    except OSError as error:
        raise ReplayError(f"{path} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise ReplayError(
            f"{path} is none of the logs that are known, and no table (CSV) either: is it another, binary file?"
        ) from error
    except MemoryError:
        raise ReplayError(
            f"{path} does not fit into memory; JSON Lines and journals are read line by line"
        ) from None


def _run_id(path: Path) -> str:
    """A name for a log that has none: its file's, or its folder's where all such files are called alike."""
    resolved = path.resolve()
    plain = resolved.stem if resolved.is_file() else resolved.name
    return f"{resolved.parent.name}-{plain}" if plain in ("trainer_state", "metrics", "log") else plain


def _open_directory(path: Path, how: _How) -> Log:
    for place in (path, path / "rlhf_otel"):
        if place.is_dir() and journal_files(place):
            return journal.read(place, how.following)
    if (path / "trainer_state.json").is_file():
        return _open_file(path / "trainer_state.json", how)
    if _newest_checkpoint(path) is not None:
        return _open_state(path, how)
    runs = sorted({run.resolve() for run in path.rglob("run-*.wandb")})  # latest-run is a link to one of them
    if len(runs) > 1:
        raise ReplayError(f"{path} holds {len(runs)} runs of W&B; name one of them: {_names(runs)}")
    if runs:
        return _open_wandb(runs[0], how)
    if next(path.rglob("*tfevents*"), None) is not None:
        return _open_tensorboard(path, how)
    below = [each for each in sorted(path.iterdir()) if each.is_dir() and _is_output_directory(each)]
    hint = f"Runs are in {_names(below)}" if below else f"Give {KNOWN}"
    raise ReplayError(f"{path} holds no log that can be replayed. {hint}")


def _is_output_directory(path: Path) -> bool:
    """Whether a trainer wrote here."""
    return (path / "rlhf_otel").is_dir() or any(path.glob("**/trainer_state.json"))


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(str(path) for path in list(paths)[:10])


def _newest_checkpoint(path: Path) -> Path | None:
    """The trainer state of the newest checkpoint in an output directory."""
    states = [each for each in path.glob("checkpoint-*/trainer_state.json") if _number(each.parent) >= 0]
    return max(states, key=lambda each: _number(each.parent), default=None)


def _number(checkpoint: Path) -> int:
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    return int(match[1]) if match else -1


def _open_file(path: Path, how: _How) -> Log:
    if path.suffix == ".wandb":
        return _open_wandb(path, how)
    if "tfevents" in path.name:
        return _open_tensorboard(path, how)
    with path.open("rb") as file:
        first = file.readline(1 << 20)
        begin = first.lstrip()[:1]
    if not begin:
        raise ReplayError(f"{path} is empty")
    if begin == b"[" or (begin == b"{" and not _is_object(first)):
        return _open_state(path, how)
    if begin == b"{":
        return _open_objects(path, first, how)
    if path.suffix.lower() in (".csv", ".tsv", ".txt", ""):
        return _read(path, tables.CSV, tables.csv_rows(lines(path, how.following), path), how)
    raise ReplayError(f"{path} is no log that can be replayed. Give {KNOWN}")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _open_state(path: Path, how: _How) -> Log:
    """A trainer state, or that of an output directory's newest checkpoint."""

    def locate() -> Path:
        return (_newest_checkpoint(path) if path.is_dir() else None) or path

    history, is_state = trainer_state.log_dicts(locate())
    rows = trainer_state.rows(locate, history, how.following)
    return _read(locate(), trainer_state.FORMAT, rows, how, null_is_nonfinite=is_state)


def _open_objects(path: Path, first: bytes, how: _How) -> Log:
    """A file whose first line is an object: what its keys say."""
    keys = json.loads(first).keys()
    if "log_history" in keys:
        return _open_state(path, how)
    if {"type", "version", "run_id"} <= keys:
        return journal.read(path, how.following)
    if {"step", "data"} <= keys:
        rows = verl.rows(lines(path, how.following), path)
        return Log(path, verl.FORMAT).read_rows(rows, RowAssembler(verl.vocabulary))
    return _read(path, tables.JSONL, tables.jsonl_rows(lines(path, how.following), path), how)


def _open_wandb(path: Path, how: _How) -> Log:
    from rlhf_otel.replay.readers import wandb_run

    return _read(path, wandb_run.FORMAT, wandb_run.rows(path, how.following), how)


def _open_tensorboard(path: Path, how: _How) -> Log:
    from rlhf_otel.replay.readers import tensorboard

    run = path if path.is_file() else tensorboard.run_directory(path)
    return _read(run, tensorboard.FORMAT, tensorboard.rows(run, how.following), how)


def _read(path: Path, form: str, rows: Iterable[Row], how: _How, null_is_nonfinite: bool = False) -> Log:
    """A log of a trainer of TRL."""
    vocabulary = TRLVocabulary(how.algorithm)
    return Log(path, form).read_rows(rows, RowAssembler(vocabulary, null_is_nonfinite))
