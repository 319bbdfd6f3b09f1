"""The journal: an append-only local record of a run, one JSON object a line.

Format, version 1. Files ``journal-00000.jsonl``, ``journal-00001.jsonl``, ... in one directory are read in
that order; a new attempt and a full file begin the next one. Every record has a ``type``: ``run``, ``step``,
``anomaly``, ``action``, ``health``, ``epoch``, ``evaluation``, ``checkpoint``, ``checkpoint_analysis``,
``reward_model``, ``profile``, ``stall``, ``ledger`` or ``end``
(``docs/journal.md``). ``time`` is Unix time in seconds, durations are milliseconds. A file that continues another
repeats the ``run`` record, marked ``continued``.

Every line is one write to a descriptor in append mode, and is ASCII: a crash at any byte costs the line that
was being written, and no other.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.errors import JournalError
from rlhf_otel.exporters.journal_lines import decode, encode
from rlhf_otel.exporters.journal_records import VERSION, Record

MAX_BYTES: Final = 64 * 2**20
RETRY_SECONDS: Final = 30.0
"""Pause after a failure: a full disk or a lost mount does not come back within milliseconds."""
SYNC_SECONDS: Final = 2.0
"""Time that :meth:`JournalWriter.close` gives the disk; a hanging file system must not hold a process."""

_FILE: Final = re.compile(r"journal-(\d{5,})\.jsonl")

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
