"""From a log to the story of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rlhf_otel.catalogue.rules import RULES, Rule
from rlhf_otel.errors import ReplayError, refused_as
from rlhf_otel.records import StepRecord
from rlhf_otel.replay import Replay, open_log
from rlhf_otel.replay.log import Log, check_has_steps
from rlhf_otel.replay.reports import Report
from rlhf_otel.replay.reports.wording import notes
from rlhf_otel.report.curves import Curve
from rlhf_otel.report.findings import live, replayed
from rlhf_otel.report.phases import PhaseLedger
from rlhf_otel.report.story import Record, Stalled, Story

_LISTS: Final = {
    "run": "attempts",
    "epoch": "epochs",
    "evaluation": "evaluations",
    "checkpoint": "checkpoints",
    "checkpoint_analysis": "analyses",
}
"""Type of record to the story's list of them."""
_MAX_OTHERS: Final = 20_000


def read(path: str | Path, algorithm: str = "", rules: Sequence[Rule] = RULES) -> Story:
    """The story of the run whose log is at ``path``, of any format that ``replay`` reads.

    A journal tells most, and has its own findings; another log is judged by ``rules``. Raises ReplayError or
    JournalError where there is no log, or one without steps.
    """
    with refused_as(ReplayError, f"{path} holds what is not in such a log"):
        return _read(open_log(path, algorithm=algorithm), Replay(rules))


def _read(log: Log, replay: Replay) -> Story:
    story = Story(log.path, log.format, log.identity, judged_live=False)
    records, ledger = _Records(story), PhaseLedger()
    log.heard = records.take
    for record in log.records:
        _add_step(story, record)
        replay.observe(record)
        ledger.add(records.step, record)
    check_has_steps(log, replay.steps)
    _take_over(story, log)
    story.phases = ledger.result()
    story.judged_live = bool(story.attempts)
    story.findings = live(records.told, replay) if story.judged_live else replayed(replay)
    story.notes += notes(Report(log, replay))
    return story


class _Records:
    """Sorts a journal's records by type."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self.step: Record = {}
        """The latest step's."""
        self.told: list[Record] = []
        """Anomalies and actions."""

    def take(self, record: Record) -> None:
        """One record, in the journal's order."""
        kind = record["type"]
        self._story.waste.add_record(record)
        if kind == "step":
            self.step = record
            self._histograms(record)
        elif kind in ("anomaly", "action"):
            self.told.append(record)
        elif kind == "stall":
            if len(self._story.stalls) < _MAX_OTHERS:
                self._story.stalls.append(_stalled(record))
        elif kind in _LISTS:
            getattr(self._story, _LISTS[kind]).append(record)
        elif kind not in ("end", "ledger"):
            others = self._story.others.setdefault(kind, [])
            if len(others) < _MAX_OTHERS:
                others.append(record)

    def _histograms(self, record: Record) -> None:
        for name, histogram in record.get("reward_histograms", {}).items():
            kept = self._story.histograms.setdefault(name, [])
            kept[1:] = [(record["step"], histogram)]


def _stalled(record: Record) -> Stalled:
    return Stalled(
        int(record["step"]),
        str(record.get("phase", "")),
        float(record["seconds"]),
        float(record["limit_s"]),
        str(record.get("stacks", "")),
        bool(record.get("gil_held", False)),
    )


def _add_step(story: Story, record: StepRecord) -> None:
    step = record.step
    story.steps.append(step)
    for found, values in ((story.curves, record.values), (story.unmapped, record.unmapped)):
        for name, value in values.items():
            curve = found.get(name)
            if curve is None:
                curve = found[name] = Curve([], [])
            curve.steps.append(step)
            curve.values.append(value)
    for name, pair in record.reward_functions.items():
        for into, value in zip((story.functions, story.deviations), pair, strict=True):
            curve = into.setdefault(name, Curve([], []))
            curve.steps.append(step)
            curve.values.append(value)
    if story.began_s is None:
        story.began_s = record.start_ns / 1e9
    story.ended_s = record.time_ns / 1e9


def _take_over(story: Story, log: Log) -> None:
    """What the log knows only when it has been read."""
    story.identity, story.end, story.config = log.identity, log.end, log.config
    if not log.timed:
        story.began_s = story.ended_s = None
    if story.attempts:
        story.began_s = story.attempts[0]["time"]
        story.environment = story.attempts[-1].get("environment", {})
    if story.end is not None and story.ended_s is not None:
        story.ended_s = max(story.ended_s, story.end.time_ns / 1e9)
