"""Steps with their phases, from a journal (every step of rank 0) and from trace files (the kept steps of each rank)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_otel.detection.waste import WasteTotals
from rlhf_otel.errors import TraceError, refused_as
from rlhf_otel.exporters.chrome_trace import PHASE, STEP, TracedPhase, TracedStep
from rlhf_otel.exporters.journal import journal_files, read_journal


class Steps(NamedTuple):
    """What was found at a path."""

    run_id: str
    steps: list[TracedStep]
    """By rank, then in the order of time."""
    incomplete: frozenset[int]
    """Ranks of which only the kept steps are known."""
    waste: Sequence[str] = ()
    """What was in vain, in sentences, by the journal."""
    stalls: Sequence[str] = ()
    """The steps that stalled, also one that never ended, in sentences, by the journal."""


def read_steps(path: Path) -> Steps:
    """Steps of a journal's directory or file, of a trace file, or of a directory of them.

    Raises:
        TraceError: there are none, or a file is neither.
        JournalError: a journal is damaged.
    """
    if not path.exists():
        raise TraceError(f"{path} does not exist")
    with refused_as(TraceError, f"{path} holds what is not in a journal or trace of rlhf_otel"):
        return _read(path)


def _read(path: Path) -> Steps:
    journal, traces = _found_in(path)
    waste, stalls = WasteTotals(), list[str]()
    run_id, steps = _of_journal(journal, waste, stalls) if journal is not None else ("", [])
    whole = {step.rank for step in steps}
    kept = [step for trace in traces for step in _of_trace(trace) if step.rank not in whole]
    if not steps and not kept:
        raise TraceError(
            f"{path} has no steps: expected a journal's directory (OUTPUT_DIR/rlhf_otel) or a trace-rank*.json"
        )
    by_time = sorted([*steps, *kept], key=lambda step: (step.rank, step.start_us))
    return Steps(run_id, by_time, frozenset(step.rank for step in kept), list(waste.sentences()), stalls)


def _found_in(path: Path) -> tuple[Path | None, list[Path]]:
    if path.is_file():
        return (path, []) if path.suffix == ".jsonl" else (None, [path])
    if not journal_files(path) and (path / "rlhf_otel").is_dir():
        path = path / "rlhf_otel"
    return (path if journal_files(path) else None), sorted(path.glob("trace-rank*.json*"))


def _of_journal(path: Path, waste: WasteTotals, stalls: list[str]) -> tuple[str, list[TracedStep]]:
    run_id, rank, steps = "", 0, []
    for record in read_journal(path):
        waste.add_record(record)
        if record["type"] == "run":
            run_id, rank = str(record.get("run_id", "")), int(record.get("rank", 0))
        elif record["type"] == "step":
            steps.append(journalled(record, rank))
        elif record["type"] == "stall":
            stalls.append(_stalled(record))
        elif record["type"] == "anomaly" and steps:
            steps[-1] = steps[-1]._replace(anomalies=[*steps[-1].anomalies, str(record.get("rule"))])
    return run_id, steps


def _stalled(record: dict[str, Any]) -> str:
    where = f", in {record['phase']}" if record.get("phase") else ""
    stacks = f": {record['stacks']}" if record.get("stacks") else ""
    return f"step {record['step']} stalled{where}, after {record['seconds']:.1f} s{stacks}"


def journalled(record: dict[str, Any], rank: int) -> TracedStep:
    """A journal's step record with its phases."""
    duration = record["duration_ms"] * 1e3
    return TracedStep(
        record["step"],
        rank,
        record.get("kind", ""),
        record["time"] * 1e6 - duration,
        duration,
        [TracedPhase(row[0], row[1], row[2] * 1e3, row[3] * 1e3, row[4], len(row) > 5) for row in record.get("phases", ())],
        record.get("values", {}),
        profile=record.get("profile", ""),
    )  # fmt: skip


def _of_trace(path: Path) -> Iterator[TracedStep]:
    step: TracedStep | None = None
    for event in _events(path):
        about = event.get("args", {})
        if event.get("cat") == STEP:
            if step is not None:
                yield step
            step = TracedStep(
                about["step"], event["pid"], about["kind"], event["ts"], event["dur"], [],
                kept_because=about["kept_because"], profile=about.get("profile", ""),
            )  # fmt: skip
        elif event.get("cat") == PHASE and step is not None:
            start = event["ts"] - step.start_us
            phase = TracedPhase(
                about["phase"],
                about["detail"],
                start,
                event["dur"],
                about["parent"],
                about.get("failed", False),
            )
            step = step._replace(phases=[*step.phases, phase])
    if step is not None:
        yield step


def _events(path: Path) -> Iterable[dict[str, Any]]:
    """The events of a whole file, or of one whose end is missing."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if text.startswith("{"):
            return list(json.loads(text)["traceEvents"])
        return [json.loads(line.rstrip(",")) for line in text.splitlines()[1:] if line.endswith("},")]
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path} is no trace file of rlhf_otel: {error}") from None
