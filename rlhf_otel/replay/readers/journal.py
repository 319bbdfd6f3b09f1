"""Our own journal: the records come back as they were judged in process."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.detection.derived import FAILURES
from rlhf_otel.errors import JournalError
from rlhf_otel.exporters.journal import journal_files, read_journal
from rlhf_otel.exporters.journal_lines import decode
from rlhf_otel.exporters.journal_records import Record
from rlhf_otel.records import RunEnd, RunIdentity, StepRecord
from rlhf_otel.replay.following import Following, lines
from rlhf_otel.replay.log import Log

FORMAT: Final = "journal"
_NUMBERS: Final = frozenset({int, float})
_RUN: Final = b'{"type":"run",'
_IDENTITY: Final = tuple(field.name for field in fields(RunIdentity))


def journal_records(path: Path, following: Following | None) -> Iterator[Record]:
    """The journal's records and, when following, those still to come."""
    return read_journal(path) if following is None else _follow(path, following)


def _follow(path: Path, following: Following) -> Iterator[Record]:
    """File after file. A file is left when a newer one is there and nothing more is in it."""
    done: set[Path] = set()
    while not following.stop.is_set():
        files = [path] if path.is_file() else journal_files(path)
        file = next((each for each in files if each not in done), None)
        if file is None:
            following.wait()
            continue
        for number, line in enumerate(lines(file, _UntilNext(path, file, following)), 1):
            try:
                yield decode(line)
            except ValueError as error:
                if line.endswith(b"\n"):
                    raise JournalError(f"{file}, line {number}: no journal record: {error}") from None
        done.add(file)


class _UntilNext(Following):
    """Ends when a newer file has been there for one pause: the writer never returns to an old one."""

    __slots__ = ("_directory", "_file", "_last_look", "_whole")

    def __init__(self, directory: Path, file: Path, whole: Following) -> None:
        super().__init__(whole.interval_s)
        self._whole = whole
        self._directory = directory
        self._file = file
        self._last_look = False

    def _newer(self) -> bool:
        return self._directory.is_dir() and journal_files(self._directory)[-1] != self._file

    def wait(self) -> bool:
        if self._last_look or self._whole.stop.is_set():
            self.stop.set()
            return False
        if self._newer():
            self._last_look = True  # one more look at what was written before the newer file was begun
            return True
        if not self._whole.wait():
            self.stop.set()
            return False
        return True


def read(path: Path, following: Following | None) -> Log:
    """The journal's newest run. A directory can hold several, one after the other."""
    log = Log(path, FORMAT, timed=True)
    begun = [str(record.get("run_id")) for record in _run_records(path)]
    records = journal_records(path, following)
    if len(set(begun)) > 1:
        log.notes.append(f"The journal holds {len(set(begun))} runs; this is the newest, {begun[-1]}.")
        records = _from_run(records, begun[-1])
    log.records = _records(records, log, begun.count(begun[-1]) if begun and following is not None else 0)
    return log


def _run_records(path: Path) -> Iterator[Record]:
    """The records that begin an attempt, without decoding the others."""
    for file in journal_files(path) if path.is_dir() else [path]:
        with file.open("rb") as content:
            for line in content:
                if line.startswith(_RUN):
                    with contextlib.suppress(ValueError):  # told with its line when it is read
                        record = decode(line)
                        if not record.get("continued"):
                            yield record


def _from_run(records: Iterable[Record], run_id: str) -> Iterator[Record]:
    current = ""
    for record in records:
        if record["type"] == "run":
            current = str(record.get("run_id"))
        if current == run_id:
            yield record


def _records(records: Iterable[Record], log: Log, attempts: int) -> Iterator[StepRecord]:
    """Steps. Ends with the end of an attempt that is not among the first ``attempts`` less one, which were resumed
    from; 0 reads on."""
    begun = 0
    for record in records:
        kind = record["type"]
        if log.heard is not None:
            log.heard(record)
        if kind == "step":
            yield _checked_step(record, log.path)
        elif kind == "run":
            begun += not record.get("continued")
            log.identity = _identity_of(record)
            log.config = record.get("config", {})
        elif kind == "evaluation":
            log.evaluation.update(record.get("values", {}))
        elif kind == "end":
            log.end = _end_of(record)
            if attempts and begun >= attempts:
                return


def _identity_of(record: Record) -> RunIdentity:
    given: Record = {name: record[name] for name in _IDENTITY if name in record}
    given["collective_phases"] = tuple(given.get("collective_phases", ()))
    return RunIdentity(**given)


def _checked_step(record: Record, path: Path) -> StepRecord:
    try:
        return step_of(record)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        step = record.get("step")
        raise JournalError(
            f"{path}: the record of step {step!r} is no step of ours: {type(error).__name__}: {error}"
        ) from None


def step_of(record: Record) -> StepRecord:
    """A step as it was judged."""
    end_ns = int(record["time"] * 1e9)
    values = record.get("values", {})
    if not _NUMBERS.issuperset(map(type, values.values())):
        values = {key: value for key, value in values.items() if type(value) in _NUMBERS}
    if (
        "step_duration" not in values
    ):  # the step that raised: judged in process for what failed and is not finite
        values = {name: value for name, value in values.items() if value - value != 0.0 or name in FAILURES}
    return StepRecord(
        step=record["step"],
        epoch=record.get("epoch", 0.0),
        kind=StepKind(record["kind"]),
        start_ns=end_ns - int(record.get("duration_ms", 0.0) * 1e6),
        end_ns=end_ns,
        time_ns=end_ns,
        values=values,
        reward_functions={name: tuple(pair) for name, pair in record.get("reward_functions", {}).items()},
        unmapped=record.get("unmapped", {}),
        nonfinite=record.get("nonfinite", {}),
    )


def _end_of(record: Record) -> RunEnd:
    outcome: Any = record.get("outcome", Outcome.FINISHED)
    moment = int(record.get("time", time.time()) * 1e9)
    return RunEnd(Outcome(outcome), moment, record.get("step", 0), record.get("reason", ""))
