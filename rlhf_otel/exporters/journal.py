r"""The journal: an append-only local record of a run, one JSON object a line.

Format, version 1. Files ``journal-00000.jsonl``, ``journal-00001.jsonl``, ... in one directory are read in
that order; a new attempt and a full file begin the next one. Every record has a ``type``: ``run``, ``step``,
``anomaly``, ``action``, ``health``, ``epoch``, ``evaluation``, ``checkpoint``, ``checkpoint_analysis``,
``reward_model``, ``profile``, ``ledger`` or ``end``
(``docs/journal.md``). ``time`` is Unix time in seconds, durations are milliseconds. A file that continues another
repeats the ``run`` record, marked ``continued``.

JSON knows no NaN. As in protobuf's JSON mapping, the *numbers* NaN and infinity are written as the strings
``"NaN"``, ``"Infinity"`` and ``"-Infinity"``. A *text* that would read as one of them gets a backslash in
front (``"\\NaN"`` in JSON). So the reader tells them apart anywhere, and restores both. Keys are always text.

Every line is one write to a descriptor in append mode, and is ASCII: a crash at any byte costs the line that
was being written, and no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import numbers
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, Final, Protocol

from rlhf_otel import faults, json_text
from rlhf_otel.errors import JournalError
from rlhf_otel.records import Anomaly, Health, PhaseInterval, RunEnd, RunIdentity, StepRecord

VERSION: Final = 1
MAX_BYTES: Final = 64 * 2**20
RETRY_SECONDS: Final = 30.0
"""Pause after a failure: a full disk or a lost mount does not come back within milliseconds."""
SYNC_SECONDS: Final = 2.0
"""Time that :meth:`JournalWriter.close` gives the disk; a hanging file system must not hold a process."""

_FILE: Final = re.compile(r"journal-(\d{5,})\.jsonl")
_NUMBER_AS_TEXT: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_AMBIGUOUS: Final = re.compile(r"\\*(NaN|-?Infinity)")

Record = dict[str, Any]

# --- records


def run_record(identity: RunIdentity, config: Mapping[str, Any], time_ns: int | None = None) -> Record:
    """Begin of an attempt: who runs, and with what configuration."""
    moment = _seconds(time.time_ns() if time_ns is None else time_ns)
    head = {"type": "run", "version": VERSION, "time": moment}
    who = dataclasses.asdict(identity) | {"collective_phases": list(identity.collective_phases)}
    return {**head, **who, "config": dict(config)}


def step_record(record: StepRecord, trace_id: str = "") -> Record:
    """One step. Empty parts are left out; ``phases`` has rows as :func:`_phase_row` makes them."""
    parts: Record = {
        "values": record.values,
        "reward_functions": record.reward_functions,
        "unmapped": record.unmapped,
        "nonfinite": record.nonfinite,
        "reward_histograms": {name: one._asdict() for name, one in record.histograms.items()},
        "phases": [_phase_row(phase, record.start_ns) for phase in record.phases],
        "rollout_s": round(record.rollout_s, 6),
        "wasted_s": {reason: round(seconds, 6) for reason, seconds in record.wasted.items()},
        "truncated_tokens": round(record.truncated_tokens, 1),
        "profile": record.profile,
        "trace_id": trace_id,
    }
    return {
        "type": "step",
        "step": record.step,
        "time": _seconds(record.time_ns),
        "epoch": record.epoch,
        "kind": record.kind.value,
        "duration_ms": _milliseconds(record.end_ns - record.start_ns),
        **{name: part for name, part in parts.items() if part},
    }


def _phase_row(phase: PhaseInterval, step_start_ns: int) -> list[Any]:
    """``[phase, detail, start_ms in the step, duration_ms, parent]``; a sixth ``true`` where it raised."""
    name, detail, start, end, parent, _, failed = phase
    row = [name, detail, _milliseconds(start - step_start_ns), _milliseconds(end - start), parent]
    return [*row, True] if failed else row


def anomaly_record(anomaly: Anomaly) -> Record:
    """A rule that fired in process."""
    fields = dataclasses.asdict(anomaly)
    if not fields["actions"]:
        del fields["actions"]
    return {"type": "anomaly", "time": _seconds(fields.pop("time_ns")), **fields}


def action_record(anomaly: Anomaly, action: str, outcome: str, detail: str = "") -> Record:
    """What came of an action that followed an anomaly."""
    what = {"rule": anomaly.rule, "step": anomaly.step, "action": action, "outcome": outcome}
    return {"type": "action", "time": _seconds(time.time_ns()), **what, "detail": detail}


def profile_record(asked_by: str, outcome: str, detail: str) -> Record:
    """What came of a profile that was asked for: its path, or why there is none."""
    now = _seconds(time.time_ns())
    return {"type": "profile", "time": now, "asked_by": asked_by, "outcome": outcome, "detail": detail}


def health_record(health: Health, step: int, time_ns: int) -> Record:
    """Health of the run from this step on, until the next such record."""
    return {
        "type": "health",
        "step": step,
        "time": _seconds(time_ns),
        "overall": _hundredths(health.overall),
        "coverage": _hundredths(health.coverage),
        "aspects": {name: _hundredths(value) for name, value in health.aspects.items()},
        "coverages": {name: _hundredths(value) for name, value in health.coverages.items()},
    }


def _hundredths(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


class _Analysis(Protocol):
    """What was found out about a saved checkpoint, as a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def checkpoint_analysis_record(analysis: _Analysis) -> Record:
    """What was found out about a saved checkpoint. Empty parts are left out."""
    fields = {name: value for name, value in analysis._asdict().items() if value not in (None, "", (), {})}
    fields["seconds"] = round(fields.get("seconds", 0.0), 3)
    return {"type": "checkpoint_analysis", "time": _seconds(time.time_ns()), **fields}


def ledger_record(phases: Mapping[str, float], wasted: Mapping[str, float], gpus: int, step: int) -> Record:
    """Where the time of an attempt went, in seconds by phase, and by reason what of it was in vain."""
    return {
        "type": "ledger",
        "time": _seconds(time.time_ns()),
        "step": step,
        "gpus": gpus,
        "phases_s": {phase: round(spent, 6) for phase, spent in phases.items() if spent},
        "wasted_s": {reason: round(spent, 6) for reason, spent in wasted.items()},
    }


def end_record(end: RunEnd) -> Record:
    """The end of a run."""
    return {
        "type": "end",
        "time": _seconds(end.time_ns),
        "step": end.step,
        "outcome": end.outcome.value,
        "reason": end.reason,
    }


def _seconds(time_ns: int) -> float:
    return round(time_ns / 1e9, 6)


def _milliseconds(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 3)


# --- lines


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its line. Values that JSON does not know become their nearest kin, or name their type."""
    text = ""
    with contextlib.suppress(ValueError, TypeError):  # a NaN, or a type that JSON does not know: the slow way
        text = _dump(record)
    if not text or _may_be_number(text):
        text = _dump(_to_json(record))
    return text.encode("ascii") + b"\n"


_dump: Final = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _may_be_number(text: str) -> bool:
    return 'NaN"' in text or 'Infinity"' in text


def decode(line: bytes) -> Record:
    """A line as its record; ValueError where it is none."""
    record = json_text.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ValueError("not an object with a type")
    if not _may_be_number(line.decode()):
        return record
    restored: Record = _from_json(record)
    return restored


def _to_json(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return _to_json(value.value)
    if isinstance(value, str):
        return f"\\{value}" if _AMBIGUOUS.fullmatch(value) else str(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _number(float(value))
    if isinstance(value, Mapping):
        return {str(key): _to_json(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [_to_json(item) for item in value]
    # Not repr(): that of a tensor waits for the GPU, and that of a model is long.
    return str(value) if isinstance(value, PurePath) else f"<{type(value).__name__}>"


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    if isinstance(value, str):
        if value in _NUMBER_AS_TEXT:
            return _NUMBER_AS_TEXT[value]
        return value[1:] if value.startswith("\\") and _AMBIGUOUS.fullmatch(value) else value
    return value


# --- writing


class JournalWriter:
    """Appends records to the files of one directory. For one thread, and not the training thread.

    Nothing that a disk does is raised: a failure is a telemetry fault, the records until the next attempt
    count as ``dropped``, and a new file is begun at most every 30 seconds.
    """

    def __init__(
        self,
        directory: str | Path,
        max_bytes: int = MAX_BYTES,
        max_files: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``max_files`` keeps the newest files of the directory, those of earlier attempts included."""
        self.directory = Path(directory)
        self.bytes_written = 0
        self.dropped = 0
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._clock = clock
        self._fd: int | None = None
        self._path = self.directory
        self._number = -1
        self._size = 0
        self._head_size = 0
        self._run: Mapping[str, Any] | None = None
        self._run_written = False
        self._retry_at = float("-inf")
        self._closed = False

    @property
    def path(self) -> Path:
        """The current file; the directory before there is one."""
        return self._path

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        line = b""
        with faults.isolated("journal", "encoding a journal record"):
            line = encode(record)
        if line and record.get("type") == "run":
            self._run, self._run_written = record, False
        if not line or self._closed or self._clock() < self._retry_at:
            self.dropped += 1
            return
        try:
            self._append(line, is_run=record is self._run)
        except OSError as error:
            self.dropped += 1
            self._fail(error)

    def close(self, timeout_s: float = SYNC_SECONDS) -> None:
        """Have the disk keep what was written, waiting ``timeout_s`` at most. Later records are dropped."""
        self._closed = True
        fd, self._fd = self._fd, None
        if fd is None:
            return
        thread = threading.Thread(target=_sync_and_close, args=(fd,), name="rlhf-otel-journal", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down
            _sync_and_close(fd)
            return
        thread.join(timeout_s)

    def _append(self, line: bytes, is_run: bool) -> None:
        if self._fd is not None and os.fstat(self._fd).st_nlink == 0:
            gone = FileNotFoundError(f"{self._path} was deleted")
            faults.record("journal", gone, "appending to the journal")
            self._run_written = False
            self._abandon()
        if self._fd is not None and self._size + len(line) > self._max_bytes:
            self._abandon()
        if self._fd is None:
            self._open()
            if not is_run:
                self._put_head()
        self._put(line)
        self._run_written = self._run is not None

    def _open(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        files = journal_files(self.directory)
        self._number = max(_number_of(files[-1]) if files else -1, self._number)
        while self._fd is None:
            self._number += 1
            self._path = self.directory / f"journal-{self._number:05d}.jsonl"
            with contextlib.suppress(FileExistsError):  # another process was faster
                self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o644)
        self._size = self._head_size = 0
        if self._max_files is not None:
            self._remove(files[: max(0, len(files) + 1 - self._max_files)])

    def _remove(self, files: Sequence[Path]) -> None:
        for file in files:
            with faults.isolated("journal", "removing an old journal file"):
                file.unlink(missing_ok=True)

    def _put_head(self) -> None:
        """Say in every file whose it is; ``continued`` only if another file says so already."""
        if self._run is None:
            return
        self._put(encode({**self._run, "continued": True} if self._run_written else self._run))
        self._head_size = self._size

    def _put(self, line: bytes) -> None:
        assert self._fd is not None
        written = os.write(self._fd, line)
        if written < len(line):
            raise OSError(f"{self._path}: the disk took {written} of {len(line)} bytes")
        self._size += written
        self.bytes_written += written

    def _fail(self, error: OSError) -> None:
        """Take back what was half written and leave the file, so that a torn line is always the last one."""
        faults.record("journal", error, "writing the journal")
        self._retry_at = self._clock() + RETRY_SECONDS
        if self._fd is None:
            return
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, self._size)
            if self._size <= self._head_size:  # nothing but its head: do not leave one every 30 seconds
                self._path.unlink()
        self._abandon()

    def _abandon(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)


def _sync_and_close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.fsync(fd)
    with contextlib.suppress(OSError):
        os.close(fd)


# --- reading


def journal_files(directory: Path) -> list[Path]:
    """The journal's files in a directory, in order."""
    return sorted((path for path in directory.iterdir() if _FILE.fullmatch(path.name)), key=_number_of)


def _number_of(path: Path) -> int:
    match = _FILE.fullmatch(path.name)
    return int(match[1]) if match else -1


def read_journal(path: str | Path) -> Iterator[Record]:
    """The records of a file, or of a directory's files in order, without a last line that was torn.

    JournalError at once where there is no journal, and on the way, naming file and line, where a line
    that is not the last of its file is no record.
    """
    path = Path(path)
    try:
        files = journal_files(path) if path.is_dir() else [path]
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error.strerror}") from error
    if not files or not files[0].is_file():
        raise JournalError(f"{path} holds no journal (files journal-00000.jsonl, ...)")
    return _read(files)


def _read(files: Sequence[Path]) -> Iterator[Record]:
    begun = False
    for file in files:
        try:
            for record in _read_file(file):
                if begun and record["type"] == "run" and record.get("continued"):
                    continue
                begun = True
                yield record
        except OSError as error:
            raise JournalError(f"{file} cannot be read: {error.strerror}") from error


def _read_file(file: Path) -> Iterator[Record]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                _check_torn(file, number, line)
                return
            try:
                record = decode(line)
            except (ValueError, RecursionError) as error:
                raise JournalError(f"{file}, line {number}: no journal record: {error}") from None
            if record["type"] == "run" and record.get("version") != VERSION:
                version = record.get("version")
                raise JournalError(
                    f"{file}, line {number}: version {version!r}; this reads version {VERSION}"
                )
            yield record


def _check_torn(file: Path, number: int, line: bytes) -> None:
    """A torn line is the begin of an object. A power cut may leave zeros where the rest was to be."""
    if line.strip(b"\0").startswith(b"{") or not line.strip(b"\0"):
        return
    raise JournalError(f"{file}, line {number}: no journal record")
