"""A log that is being read: its records, and what is learnt about the run on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_otel.errors import ReplayError
from rlhf_otel.records import RunEnd, RunIdentity, StepRecord
from rlhf_otel.replay.rows import Row, RowAssembler


@dataclass(slots=True)
class Log:
    """One run's log. Iterate :attr:`records` once; the other attributes are complete only afterwards."""

    path: Path
    format: str
    records: Iterator[StepRecord] = field(default_factory=lambda: iter(()))
    timed: bool = False
    """Whether the log says when its steps ended; else the records' times are synthetic."""
    identity: RunIdentity = field(default_factory=lambda: RunIdentity(run_id=""))
    evaluation: dict[str, float] = field(default_factory=dict)
    """Latest evaluation values."""
    end: RunEnd | None = None
    unknown: dict[str, int] = field(default_factory=dict)
    """Keys that no signal stands for, to the number of rows in which they were NaN or infinite."""
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What a reader of the report should know about the log."""
    heard: Callable[[dict[str, Any]], object] | None = None
    """Called with each record of a journal, of whichever type, before its step is among :attr:`records`."""

    def read_rows(self, rows: Iterable[Row], assembler: RowAssembler) -> Log:
        """Have :attr:`records` come from rows; returns the log itself."""
        self.records = self._assembled(rows, assembler)
        return self

    def _assembled(self, rows: Iterable[Row], assembler: RowAssembler) -> Iterator[StepRecord]:
        self.evaluation = assembler.evaluation
        self.unknown = assembler.unknown
        last, algorithm = 0, self.identity.algorithm
        for row in rows:
            record = assembler.record(row)
            self.timed = assembler.timed
            if assembler.algorithm != algorithm:
                algorithm = assembler.algorithm
                self.identity = replace(self.identity, algorithm=algorithm)
            if record is not None:
                if record.step < last:
                    self._note_restart(last, record.step)
                last = record.step
                yield record

    def _note_restart(self, last: int, step: int) -> None:
        said = "Steps go back"
        if not any(note.startswith(said) for note in self.notes):
            self.notes.append(
                f"{said}, from {last} to {step}: a resumed run, or several in one log. They are judged as one."
            )


def check_has_steps(log: Log, steps: int) -> None:
    """ReplayError for a log that has been read and has no training step: silence about it is no health."""
    if steps:
        return
    if not log.unknown:
        raise ReplayError(
            f"{log.path} ({log.format}) has no training steps yet, or logging_steps is too large"
        )
    known = "loss, grad_norm, reward, kl, entropy, completions/mean_length, rewards/chosen"
    raise ReplayError(
        f"{log.path} ({log.format}) has no training step: none of its keys is known "
        f"({', '.join(list(log.unknown)[:8])}). Known are those that TRL logs, such as {known}; docs/metrics.md lists them."
    )
