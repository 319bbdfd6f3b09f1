"""Runs by their journals, read on from where the last look ended.

A journal says when a rule fired and not when that was over, so that the catalogue's rules judge its steps anew for that; a
rule of the run's own counts as active for as long as one stays so after a breach.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from rlhf_otel.catalogue.rule import LATCH_STEPS
from rlhf_otel.errors import FOREIGN, JournalError
from rlhf_otel.exporters.journal import journal_files
from rlhf_otel.exporters.journal_lines import decode
from rlhf_otel.exporters.journal_records import Record
from rlhf_otel.plain_text import shown
from rlhf_otel.replay import Replay
from rlhf_otel.replay.readers.journal import step_of
from rlhf_otel.slow_steps.explanation import own_times
from rlhf_otel.slow_steps.reading import journalled
from rlhf_otel.top.picture import Picture


class JournalWatch:
    """One journal; of several runs in it the newest."""

    def __init__(self, directory: Path) -> None:
        """Raises JournalError where there is none, neither here nor in ``rlhf_otel`` below."""
        places = (directory, directory / "rlhf_otel")
        found = next((place for place in places if place.is_dir() and journal_files(place)), None)
        if found is None:
            raise JournalError(f"{directory} holds no journal (files journal-00000.jsonl, ...)")
        self._directory = found
        self._offsets: dict[Path, int] = {}
        self._picture = Picture(str(found))
        self._judge = Replay()

    def look(self) -> list[Picture]:
        """Take in what was written since; lines that are not whole wait."""
        for file in journal_files(self._directory):
            with file.open("rb") as content:
                content.seek(self._offsets.get(file, 0))
                for line in content:
                    if not line.endswith(b"\n"):
                        break
                    self._offsets[file] = self._offsets.get(file, 0) + len(line)
                    self._take(line)
        return [self._picture]

    def _take(self, line: bytes) -> None:
        try:
            record = decode(line)
        except ValueError:
            return
        take = {
            "run": self._run,
            "step": self._step,
            "stall": self._stall,
            "anomaly": self._anomaly,
            "end": self._end,
        }.get(record["type"])
        if take is not None:
            with contextlib.suppress(*FOREIGN):  # a record that is not as we write them says nothing here
                take(record)

    def _run(self, record: Record) -> None:
        picture = self._picture
        if shown(record["run_id"]) != picture.run:
            picture = self._picture = Picture(shown(record["run_id"]), record.get("rank", 0))
            self._judge = Replay()
        picture.name, picture.algorithm = shown(record.get("run_name", "")), record.get("algorithm", "")
        picture.planned = max(int(record.get("config", {}).get("max_steps") or 0), 0)
        picture.state = "running"

    def _step(self, record: Record) -> None:
        picture = self._picture
        picture.step, picture.heard_s, picture.phase = record["step"], record["time"], ""
        for name, value in record.get("values", {}).items():
            picture.add(name, value)
        for phase, microseconds in own_times(journalled(record, picture.rank)).items():
            phase = phase.split(" ")[0]
            picture.phases[phase] = picture.phases.get(phase, 0.0) + microseconds / 1e6
        self._judge.observe(step_of(record))
        active = {verdict.rule.name: verdict.active for verdict in self._judge.verdicts}
        for rule, (severity, step, _) in picture.anomalies.items():
            latched = record["step"] - step <= LATCH_STEPS
            picture.anomalies[rule] = (severity, step, active.get(rule, latched))

    def _stall(self, record: Record) -> None:
        self._picture.stalls += 1
        self._picture.phase = shown(str(record.get("phase") or ""))

    def _anomaly(self, record: Record) -> None:
        self._picture.anomalies[record["rule"]] = (record["severity"], record["first_step"], True)

    def _end(self, record: Record) -> None:
        self._picture.state = record["outcome"]
