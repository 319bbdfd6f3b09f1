"""Replays records through the same baselines and the same detector as in process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from rlhf_otel.catalogue.rules import RULES, Rule
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.detector import Detector, Verdict
from rlhf_otel.records import Anomaly, Statistics, StepRecord

READ_AHEAD: Final = 64
"""Steps that are read before they are judged: reading and judging in turns, step by step, takes a quarter longer, since
each drives the other from the processor's caches."""


@dataclass(slots=True)
class ReplayedAnomaly:
    """A rule that would have fired, from the first step in breach to the last."""

    anomaly: Anomaly
    """As in process, at the step at which it would have fired."""
    rule_as_judged: Rule
    last_step: int

    @property
    def rule(self) -> str:
        """The rule's name."""
        return self.anomaly.rule

    @property
    def summary(self) -> str:
        """What broke, in a sentence."""
        return self.rule_as_judged.summary

    @property
    def first_step(self) -> int:
        """First step in breach."""
        return self.anomaly.first_step

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return plain(self.anomaly, self.last_step, self.summary)


def plain(anomaly: Anomaly, last_step: int, summary: str) -> dict[str, Any]:
    """An anomaly as reports have it in JSON: ``last_step`` is the last one in breach, ``summary`` what broke."""
    return {
        "rule": anomaly.rule,
        "severity": anomaly.severity.value,
        "signal": anomaly.signal,
        "first_step": anomaly.first_step,
        "fired_at_step": anomaly.step,
        "last_step": last_step,
        "value": anomaly.value,
        "baseline": anomaly.baseline,
        "statistic": anomaly.statistic,
        "observed": anomaly.observed,
        "threshold": anomaly.threshold,
        "detail": anomaly.detail,
        "summary": summary,
        "cause": anomaly.cause,
        "remedy": anomaly.remedy,
    }


class Replay:
    """Judges one run's records in order."""

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self.rules = tuple(rules)
        self.anomalies: list[ReplayedAnomaly] = []
        """What has fired so far, in the order of firing."""
        self.steps = 0
        self.first_step = 0
        self.last_step = 0
        self.statistics: dict[str, Statistics] = {}
        """Statistics at the latest step."""
        self._seen: dict[tuple[str, ...], int] = {}
        """Names of a step's signals, as a step has them, to the number of such steps: there are a few kinds."""
        self._by_name = {rule.name: rule for rule in self.rules}
        self._baselines = Baselines()
        self._detector = Detector(self.rules)
        self._verdicts = self._detector.verdicts
        self._latest: dict[str, ReplayedAnomaly] = {}

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The detector's verdicts after the latest step."""
        return self._detector.verdicts

    @property
    def counts(self) -> dict[str, int]:
        """Signal to the number of steps that had it."""
        found: Counter[str] = Counter()
        for names, steps in self._seen.items():
            found.update(dict.fromkeys(names, steps))
        return dict(found)

    @property
    def streaks(self) -> dict[str, int]:
        """Rule to the steps in a row that it has been in breach, after the latest step."""
        return self._detector.streaks

    def observe(self, record: StepRecord) -> list[ReplayedAnomaly]:
        """Judge one step; return the anomalies that begin with it."""
        if not self.steps:
            self.first_step = record.step
        self.steps += 1
        self.last_step = record.step
        seen = tuple(record.values)
        self._seen[seen] = self._seen.get(seen, 0) + 1
        self.statistics = self._baselines.observe(record.kind, record.values)
        begun = [self._begin(anomaly) for anomaly in self._detector.observe(record, self.statistics)]
        if self._detector.verdicts is not self._verdicts:
            self._extend()
        return begun

    def observe_all(self, records: Iterable[StepRecord]) -> list[ReplayedAnomaly]:
        """Judge the steps of a log that is there already; return what has fired so far."""
        left = iter(records)
        while ahead := list(islice(left, READ_AHEAD)):
            for record in ahead:
                self.observe(record)
        return self.anomalies

    def _begin(self, anomaly: Anomaly) -> ReplayedAnomaly:
        begun = ReplayedAnomaly(anomaly, self._by_name[anomaly.rule], anomaly.step)
        self.anomalies.append(begun)
        self._latest[anomaly.rule] = begun
        return begun

    def _extend(self) -> None:
        """Take over the last step in breach of each verdict."""
        self._verdicts = self._detector.verdicts
        for verdict in self._verdicts:
            latest = self._latest.get(verdict.rule.name)
            if latest is not None:
                latest.last_step = verdict.last_step


def run(records: Iterable[StepRecord], rules: Sequence[Rule] = RULES) -> list[ReplayedAnomaly]:
    """What the rules would have found in a run, in the order of firing."""
    return Replay(rules).observe_all(records)
