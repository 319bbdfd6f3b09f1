"""A replayed run as the series that Prometheus would have scraped, with the anomalies and the alerts beside them.

The samples come from the same collector as a live run's, so that names and labels are the same. A sample is
taken at each step, but at most one per scrape interval, and repeated in long steps, so that no gap is longer than
what Prometheus looks back.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from rlhf_otel.catalogue.metrics import MAX_REWARD_FUNCTIONS, MAX_TRAINER_METRICS, STEP_DURATION_BUCKETS
from rlhf_otel.catalogue.rules import compared
from rlhf_otel.catalogue.signals import MONITORED, SIGNALS
from rlhf_otel.detection.health import HealthScores
from rlhf_otel.detection.promql import ENGINE
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.records import HistogramState, RunEnd, RunIdentity, RunView, Snapshot, StepRecord
from rlhf_otel.replay.engine import Replay
from rlhf_otel.replay.timeline import Timeline
from rlhf_otel.sources.trl_keys import measurable

JOB: Final = "rlhf-replay"
SCRAPE_S: Final = 15.0
REPEAT_S: Final = 240.0
"""Prometheus looks back 5 minutes."""
LONGEST_STEP_S: Final = 2 * 3600.0
"""A longer gap is none of a step: nobody was there to be scraped."""
LEFT_OUT: Final = ("rlhf_telemetry_", "rlhf_stall_threshold_seconds", "rlhf_dropped_series")
"""Beginnings of names of what is about a process that observes, of which there was none."""

_MOMENTARY: Final[dict[str, float | None]] = {signal.name: None for signal in SIGNALS if signal.momentary}

Labels = tuple[tuple[str, str], ...]


class Step(NamedTuple):
    """A step, and the evaluation values known at it."""

    record: StepRecord
    evaluation: Mapping[str, float]


class Points(NamedTuple):
    """The samples of one series."""

    times_ms: array[int]
    values: array[float]


class Series:
    """Samples by series, written as OpenMetrics."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        """``labels`` are put on every series."""
        self._labels = labels
        self._points: dict[tuple[str, Labels], Points] = {}

    def __len__(self) -> int:
        return len(self._points)

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(points.values) for points in self._points.values())

    def add(self, name: str, labels: Mapping[str, str], time_s: float, value: float) -> None:
        """Append a sample; times of a series must rise."""
        key = (name, tuple(labels.items()))
        points = self._points.get(key)
        if points is None:
            points = self._points[key] = Points(array("q"), array("d"))
        time_ms = round(time_s * 1000)
        if not points.times_ms or time_ms > points.times_ms[-1]:
            points.times_ms.append(time_ms)
            points.values.append(value)

    def lines(self) -> Iterator[str]:
        """OpenMetrics, series after series."""
        for (name, labels), points in sorted(self._points.items()):
            everything = {**dict(labels), **self._labels}
            text = ",".join(f'{label}="{_escaped(value)}"' for label, value in everything.items())
            for time_ms, value in zip(points.times_ms, points.values, strict=True):
                yield f"{name}{{{text}}} {_number(value)} {time_ms // 1000}.{time_ms % 1000:03d}\n"
        yield "# EOF\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


class Backfill:
    """Turns replayed steps into series."""

    def __init__(self, replay: Replay, identity: RunIdentity, timeline: Timeline, job: str = JOB) -> None:
        self._replay = replay
        self._identity = replace(identity, rank=0)
        self._timeline = timeline
        own = {"job": job, "instance": "replay"}
        self.series = Series({**own, "timeline": timeline.label} if timeline.label else own)
        self._snapshot = Snapshot(started_s=timeline.times[0], compared=compared(replay.rules))
        self._health = HealthScores(())
        self._nonfinite = {signal.name: 0 for signal in SIGNALS if signal.watch_nonfinite}
        self._durations: dict[str, HistogramState] = {}
        self._end: RunEnd | None = None
        self._collector = RunsCollector(lambda: [RunView(self._identity, self._snapshot, end=self._end)])

    def run(self, steps: Sequence[Step], end: RunEnd | None = None) -> Series:
        """All steps, then the end of the run."""
        self._health = self._scores_of(steps)
        last = -math.inf
        for (record, evaluation), time_s in zip(steps, self._timeline.times, strict=True):
            while REPEAT_S < time_s - last < LONGEST_STEP_S:
                last += REPEAT_S
                self._scrape(last)
            self._observe(record, evaluation, time_s)
            if time_s - last >= SCRAPE_S:
                last = time_s
                self._scrape(time_s)
        self._finish(end)
        return self.series

    def _scores_of(self, steps: Sequence[Step]) -> HealthScores:
        monitored = any(not MONITORED.isdisjoint(record.values) for record, _ in steps[-1:])
        known = measurable(self._identity.algorithm, monitored)
        return HealthScores([rule for rule in self._replay.rules if rule.needs <= known])

    def _finish(self, end: RunEnd | None) -> None:
        """The last step, whether or not a scrape is due, and how the run ended."""
        time_s = self._timeline.times[-1]
        self._scrape(time_s)
        if end is not None:
            self._end = RunEnd(end.outcome, round(time_s * 1e9), end.step, end.reason)
            self._scrape(time_s + SCRAPE_S)

    def _observe(self, record: StepRecord, evaluation: Mapping[str, float], time_s: float) -> None:
        record.time_ns = round(time_s * 1e9)
        self._replay.observe(record)
        for name, count in record.nonfinite.items():
            if name in self._nonfinite:
                self._nonfinite[name] += count
        if "step_duration" in record.values:
            self._count(record.kind.value, record.values["step_duration"])
        before = self._snapshot
        values = {**before.values, **_MOMENTARY, **record.values}
        self._snapshot = before._replace(
            step=record.step,
            time_s=time_s,
            values=values,
            statistics=self._replay.statistics,
            health=self._health.observe(values, self._replay.statistics, self._replay.verdicts),
            reward_functions=_capped(before.reward_functions, record.reward_functions, MAX_REWARD_FUNCTIONS),
            unmapped=_capped(before.unmapped, record.unmapped, MAX_TRAINER_METRICS),
            evaluation=evaluation,
            nonfinite=self._nonfinite,
            verdicts=self._replay.verdicts,
            streaks=self._replay.streaks,
            durations=self._durations,
        )

    def _count(self, kind: str, duration: float) -> None:
        before = self._durations.get(kind, HistogramState((0,) * (len(STEP_DURATION_BUCKETS) + 1), 0.0))
        counts = list(before.counts)
        counts[bisect_left(STEP_DURATION_BUCKETS, duration)] += 1
        self._durations[kind] = HistogramState(tuple(counts), before.total + duration)

    def _scrape(self, time_s: float) -> None:
        for family in self._collector.collect():
            if not family.name.startswith(LEFT_OUT):
                for sample in family.samples:
                    self.series.add(sample.name, sample.labels, time_s, float(sample.value))
        for verdict in self._snapshot.verdicts:
            if verdict.active:
                self.series.add("ALERTS", self._alert(verdict), time_s, 1.0)

    def _alert(self, verdict: Any) -> dict[str, str]:
        rule = verdict.rule
        return {
            "alertname": rule.alert,
            "alertstate": "firing",
            "engine": ENGINE.verdict,
            "rule": rule.name,
            "run_id": self._identity.run_id,
            "severity": rule.severity.value,
        }


def _capped(known: Mapping[str, Any], fresh: Mapping[str, Any], cap: int) -> Mapping[str, Any]:
    merged = {**known, **fresh}
    return dict(list(merged.items())[:cap]) if len(merged) > cap else merged
