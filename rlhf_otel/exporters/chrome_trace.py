"""Steps in the Chrome trace format, which Perfetto and chrome://tracing open: no server needed.

Ranks are processes and phases are slices, so that the files of several ranks laid together show who waits for
whom. The format is an array of events whose end may be missing: events are appended, and a killed run leaves a
readable file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from rlhf_otel.records import Anomaly, PhaseInterval, RunIdentity, StepRecord

MAX_BYTES: Final = 16 << 20
"""Size at which a file is laid aside under the suffix ``.1``, in place of the one that lay there."""
MAX_PHASES: Final = 2000
"""Phases of one step at most, the first ones."""
COUNTERS: Final = ("kl_per_token", "reward", "gpu_memory_used", "host_memory_used")
"""Signals that are drawn as curves above the slices."""
STEP, PHASE, ANOMALY = "step", "phase", "anomaly"
"""Categories of events."""

Event = dict[str, Any]


class TracedPhase(NamedTuple):
    """A phase of a step; times in microseconds from the step's beginning."""

    name: str
    detail: str
    start_us: float
    duration_us: float
    parent: int
    """Position among the step's phases, -1 for the step itself."""
    failed: bool = False


class TracedStep(NamedTuple):
    """A step with its phases."""

    step: int
    rank: int
    kind: str
    start_us: float
    """Unix time in microseconds."""
    duration_us: float
    phases: Sequence[TracedPhase]
    values: Mapping[str, float] = {}
    anomalies: Sequence[str] = ()
    """Names of the rules that fired at it."""
    kept_because: str = ""
    profile: str = ""
    """Where the torch profile is that covers it."""


def traced(record: StepRecord, rank: int, anomalies: Iterable[Anomaly], kept_because: str) -> TracedStep:
    """A step's record as a traced step."""
    return TracedStep(
        record.step,
        rank,
        record.kind.value,
        (record.time_ns - (record.end_ns - record.start_ns)) / 1e3,
        (record.end_ns - record.start_ns) / 1e3,
        [_traced_phase(phase, record.start_ns) for phase in record.phases[:MAX_PHASES]],
        record.values,
        [anomaly.rule for anomaly in anomalies],
        kept_because,
        record.profile,
    )


def _traced_phase(phase: PhaseInterval, origin_ns: int) -> TracedPhase:
    start, duration = (phase.start_ns - origin_ns) / 1e3, (phase.end_ns - phase.start_ns) / 1e3
    return TracedPhase(phase.phase, phase.detail, start, duration, phase.parent, phase.failed)


# --- events


def head(rank: int, run_id: str) -> list[Event]:
    """Events that name a rank's process."""
    names = {
        "process_name": {"name": f"rank {rank}, run {run_id}"},
        "process_sort_index": {"sort_index": rank},
    }
    return [{"ph": "M", "name": name, "pid": rank, "tid": 0, "args": args} for name, args in names.items()]


def events(step: TracedStep) -> Iterator[Event]:
    """A step as events: itself, its phases, the rules that fired, and the curves."""
    lanes = _lanes(step.phases)
    about = {"step": step.step, "kind": step.kind, "kept_because": step.kept_because}
    about |= {"profile": step.profile} if step.profile else {}
    yield _slice(step, f"step {step.step}", STEP, 0.0, step.duration_us, 0, about)
    for phase, lane in zip(step.phases, lanes, strict=True):
        about = {"step": step.step, "phase": phase.name, "detail": phase.detail, "parent": phase.parent}
        about |= {"failed": True} if phase.failed else {}
        name = f"{phase.name} {phase.detail}" if phase.detail else phase.name
        yield _slice(step, name, PHASE, phase.start_us, phase.duration_us, lane, about)
    end = round(step.start_us + step.duration_us, 3)
    for rule in step.anomalies:
        yield {"ph": "i", "s": "p", "cat": ANOMALY, "name": rule, "pid": step.rank, "tid": 0, "ts": end,
               "args": {"step": step.step}}  # fmt: skip
    for signal in COUNTERS:
        value = step.values.get(signal)
        if value is not None and isfinite(value):
            yield {"ph": "C", "name": signal, "pid": step.rank, "ts": end, "args": {"value": value}}


def _slice(
    step: TracedStep, name: str, category: str, start: float, duration: float, lane: int, about: Event
) -> Event:
    times = {"ts": round(step.start_us + start, 3), "dur": round(duration, 3)}
    return {"ph": "X", "cat": category, "name": name, "pid": step.rank, "tid": lane, **times, "args": about}


def _lanes(phases: Sequence[TracedPhase]) -> list[int]:
    """The track of each phase: slices of one track have to nest, which asynchronous ones don't."""
    ends: list[list[float]] = []
    lanes = []
    for phase in phases:
        end = phase.start_us + phase.duration_us
        for lane in range(len(ends) + 1):
            if lane == len(ends):
                ends.append([])
            while ends[lane] and ends[lane][-1] <= phase.start_us:
                ends[lane].pop()
            if not ends[lane] or ends[lane][-1] >= end:
                break
        ends[lane].append(end)
        lanes.append(lane)
    return lanes


# --- files


def file_of(directory: Path, rank: int) -> Path:
    """Where a rank's kept steps go."""
    return directory / f"trace-rank{rank}.json"


class ChromeTraceWriter:
    """Appends kept steps to a rank's file. On the background thread."""

    def __init__(self, directory: Path, identity: RunIdentity, max_bytes: int = MAX_BYTES) -> None:
        self._path = file_of(directory, identity.rank)
        self._identity = identity
        self._max_bytes = max_bytes
        self._file: IO[str] | None = None

    def write(self, step: TracedStep) -> None:
        """Append a step.

        Raises:
            OSError: the file cannot be written.
        """
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lay_aside()
            self._open()
        file = self._file
        assert file is not None
        file.write("".join(_line(event) for event in events(step)))
        file.flush()
        if file.tell() > self._max_bytes:
            self.close()

    def close(self) -> None:
        """Close the file; a later step begins another."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lay_aside(self) -> None:
        if self._path.exists():
            self._path.replace(self._path.with_suffix(self._path.suffix + ".1"))

    def _open(self) -> None:
        self._file = self._path.open("w", encoding="utf-8")
        self._file.write("[\n" + "".join(_line(e) for e in head(self._identity.rank, self._identity.run_id)))


def write_file(path: Path, steps: Iterable[TracedStep], run_id: str) -> None:
    """Steps of one or several ranks as one whole file."""
    steps = list(steps)
    rows = [event for rank in sorted({step.rank for step in steps}) for event in head(rank, run_id)]
    rows += [event for step in steps for event in events(step)]
    path.write_text(
        json.dumps({"traceEvents": rows, "displayTimeUnit": "ms"}, allow_nan=False), encoding="utf-8"
    )


def _line(event: Event) -> str:
    return json.dumps(event, allow_nan=False, separators=(",", ":")) + ",\n"
