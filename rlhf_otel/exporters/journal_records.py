"""Records of the journal: what each holds is told in ``docs/journal.md``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, Protocol

from rlhf_otel.records import Anomaly, Health, PhaseInterval, RunEnd, RunIdentity, StepRecord

VERSION: Final = 1

Record = dict[str, Any]


def run_record(identity: RunIdentity, config: Mapping[str, Any], time_ns: int | None = None) -> Record:
    """Begin of an attempt: who runs, and with what configuration."""
    moment = _seconds(time.time_ns() if time_ns is None else time_ns)
    head = {"type": "run", "version": VERSION, "time": moment}
    who = dataclasses.asdict(identity) | {"collective_phases": list(identity.collective_phases)}
    return {**head, **who, "config": dict(config)}


def step_record(record: StepRecord, trace_id: str = "") -> Record:
    """One step. Empty parts are left out; ``phases`` has rows as :func:`_phase_row` makes them."""
    parts: Record = {
        "values": record.values,
        "reward_functions": record.reward_functions,
        "unmapped": record.unmapped,
        "nonfinite": record.nonfinite,
        "reward_histograms": {name: one._asdict() for name, one in record.histograms.items()},
        "phases": [_phase_row(phase, record.start_ns) for phase in record.phases],
        "rollout_s": round(record.rollout_s, 6),
        "wasted_s": {reason: round(seconds, 6) for reason, seconds in record.wasted.items()},
        "truncated_tokens": round(record.truncated_tokens, 1),
        "profile": record.profile,
        "trace_id": trace_id,
    }
    return {
        "type": "step",
        "step": record.step,
        "time": _seconds(record.time_ns),
        "epoch": record.epoch,
        "kind": record.kind.value,
        "duration_ms": _milliseconds(record.end_ns - record.start_ns),
        **{name: part for name, part in parts.items() if part},
    }


def _phase_row(phase: PhaseInterval, step_start_ns: int) -> list[Any]:
    """``[phase, detail, start_ms in the step, duration_ms, parent]``; a sixth ``true`` where it raised."""
    name, detail, start, end, parent, _, failed = phase
    row = [name, detail, _milliseconds(start - step_start_ns), _milliseconds(end - start), parent]
    return [*row, True] if failed else row


def anomaly_record(anomaly: Anomaly) -> Record:
    """A rule that fired in process."""
    fields = dataclasses.asdict(anomaly)
    if not fields["actions"]:
        del fields["actions"]
    return {"type": "anomaly", "time": _seconds(fields.pop("time_ns")), **fields}


def action_record(anomaly: Anomaly, action: str, outcome: str, detail: str = "") -> Record:
    """What came of an action that followed an anomaly."""
    what = {"rule": anomaly.rule, "step": anomaly.step, "action": action, "outcome": outcome}
    return {"type": "action", "time": _seconds(time.time_ns()), **what, "detail": detail}


def profile_record(asked_by: str, outcome: str, detail: str) -> Record:
    """What came of a profile that was asked for: its path, or why there is none."""
    now = _seconds(time.time_ns())
    return {"type": "profile", "time": now, "asked_by": asked_by, "outcome": outcome, "detail": detail}


class _Stall(Protocol):
    """A step that takes longer than it may, as a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def stall_record(stall: _Stall, rank: int) -> Record:
    """A step that takes longer than it may, and where its stacks are."""
    fields = stall._asdict()
    for name in ("phase_s", "seconds", "limit_s"):
        fields[name] = round(fields[name], 3)
    told = {name: value for name, value in fields.items() if value not in ("", False)}
    if "path" in told:
        told["stacks"] = told.pop("path")
    return {"type": "stall", "time": _seconds(time.time_ns()), "rank": rank, **told}


def health_record(said: Mapping[str, Any], step: int, time_ns: int) -> Record:
    """Health of the run, as :func:`in_hundredths` says it, from this step on, until the next such record."""
    return {"type": "health", "step": step, "time": _seconds(time_ns), **said}


def in_hundredths(health: Health) -> Record:
    """Health as it is told."""
    return {
        "overall": _hundredths(health.overall),
        "coverage": _hundredths(health.coverage),
        "aspects": {name: _hundredths(value) for name, value in health.aspects.items()},
        "coverages": {name: _hundredths(value) for name, value in health.coverages.items()},
    }


@lru_cache(maxsize=256)  # mostly they are as at the step before, and rounding takes seven times as long
def _hundredths(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


class _Analysis(Protocol):
    """What was found out about a saved checkpoint, as a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


def checkpoint_analysis_record(analysis: _Analysis) -> Record:
    """What was found out about a saved checkpoint. Empty parts are left out."""
    fields = {name: value for name, value in analysis._asdict().items() if value not in (None, "", (), {})}
    fields["seconds"] = round(fields.get("seconds", 0.0), 3)
    return {"type": "checkpoint_analysis", "time": _seconds(time.time_ns()), **fields}


def ledger_record(phases: Mapping[str, float], wasted: Mapping[str, float], gpus: int, step: int) -> Record:
    """Where the time of an attempt went, in seconds by phase, and by reason what of it was in vain."""
    return {
        "type": "ledger",
        "time": _seconds(time.time_ns()),
        "step": step,
        "gpus": gpus,
        "phases_s": {phase: round(spent, 6) for phase, spent in phases.items() if spent},
        "wasted_s": {reason: round(spent, 6) for reason, spent in wasted.items()},
    }


def end_record(end: RunEnd) -> Record:
    """The end of a run."""
    return {
        "type": "end",
        "time": _seconds(end.time_ns),
        "step": end.step,
        "outcome": end.outcome.value,
        "reason": end.reason,
    }


def _seconds(time_ns: int) -> float:
    return round(time_ns / 1e9, 6)


def _milliseconds(duration_ns: int) -> float:
    return round(duration_ns / 1e6, 3)
