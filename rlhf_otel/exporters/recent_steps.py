"""The records of the last steps, in case one of them turns out to be worth a trace."""

from __future__ import annotations

from typing import Final

from rlhf_otel.records import StepRecord

MAX_PHASES_HELD: Final = 20_000
"""Phases of all records together; about 200 bytes each, so that they take 4 MB at most."""


class RecentSteps:
    """Holds the last steps, bounded by their number and by that of their phases; each is given out once."""

    def __init__(self, steps: int, phases: int = MAX_PHASES_HELD) -> None:
        self._steps = steps
        self._max_phases = phases
        self._phases = 0
        self._records: dict[int, StepRecord | None] = {}
        """By step, oldest first; None where the record was given out."""

    def add(self, record: StepRecord, given_out: bool) -> None:
        """The next step; the oldest make room for it."""
        self.take(record.step)
        self._records.pop(record.step, None)
        self._records[record.step] = None if given_out else record
        self._phases += 0 if given_out else len(record.phases)
        while len(self._records) > self._steps or self._phases > self._max_phases:
            oldest = next(iter(self._records))
            self.take(oldest)
            del self._records[oldest]

    def take(self, step: int) -> StepRecord | None:
        """The step's record, unless it was given out already or is no longer here."""
        record = self._records.get(step)
        if record is not None:
            self._records[step] = None
            self._phases -= len(record.phases)
        return record

    def take_last(self, count: int) -> list[StepRecord]:
        """What of the last ``count`` steps has not been given out, oldest first."""
        last = list(self._records)[-count:] if count else []
        taken = [self.take(step) for step in last]
        return [record for record in taken if record is not None]

    def knows(self, step: int) -> bool:
        """Whether the step is among the last, given out or not."""
        return step in self._records
