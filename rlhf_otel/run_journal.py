"""What a run writes into its journal, and when; a journal that fails costs nothing else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_otel import faults
from rlhf_otel.detection.epochs import Epochs
from rlhf_otel.exporters.earlier_attempt import lost_seconds
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.journal_records import anomaly_record, health_record, in_hundredths, step_record
from rlhf_otel.records import Anomaly, Health, StepRecord


class RunJournal:
    """The journal of one run, or of none. On the background thread, but for what it counts."""

    def __init__(self, directory: Path | None) -> None:
        """``directory`` is for its files; None where no journal is kept."""
        self._writer = JournalWriter(directory) if directory is not None else None
        self._epochs = Epochs()
        self._health: Mapping[str, Any] = {}
        """What was told of it last."""

    @property
    def dropped(self) -> int | None:
        """Records that could not be written; None where no journal is kept."""
        return self._writer.dropped if self._writer is not None else None

    @property
    def bytes_written(self) -> int:
        """Bytes written so far."""
        return self._writer.bytes_written if self._writer is not None else 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a record."""
        if self._writer is not None:
            with faults.isolated("journal", "writing a record to the journal"):
                self._writer.write(record)

    def lost_seconds(self, run_id: str, resumed_s: float | None) -> float:
        """What the attempt before did after the checkpoint of that Unix time, which is gone on from. Before any record."""
        if self._writer is not None:
            with faults.isolated("journal", "reading what the attempt before left"):
                return lost_seconds(self._writer.directory, run_id, resumed_s)
        return 0.0

    def step(self, record: StepRecord, anomalies: Sequence[Anomaly], whole: bool) -> None:
        """Add a step with what fired at it; ``whole``: and not one that training left by an exception."""
        if self._writer is None:
            return
        with faults.isolated("journal", "telling the journal of a step"):
            self.write(step_record(record))
            for anomaly in anomalies:
                self.write(anomaly_record(anomaly))
            if whole:
                ended = self._epochs.observe(record.epoch, record.step, record.values)
                self._epoch(ended, record.time_ns / 1e9)

    def health(self, health: Health, step: int, time_ns: int) -> None:
        """Add the health of a run, where it differs by a hundredth from what was told last."""
        said = in_hundredths(health)
        if said != self._health:
            self._health = said
            self.write(health_record(said, step, time_ns))

    def end_epoch(self) -> None:
        """No step will follow: add the epoch in progress."""
        self._epoch(self._epochs.end(), time.time())

    def close(self) -> None:
        """End the file."""
        if self._writer is not None:
            self._writer.close()

    def _epoch(self, summary: dict[str, Any] | None, time_s: float) -> None:
        if summary is not None:
            self.write({"type": "epoch", "time": time_s, **summary})
