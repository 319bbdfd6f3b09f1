"""Steps as the pipeline's tests make them up, and a pipeline that judges them."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from rlhf_otel import run_health
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import Anomaly, OpenPhase, RunIdentity, StepRecord
from rlhf_otel.settings import Settings

NAN = math.nan
SECOND_NS = 10**9


def record(
    step: int, seconds: float = 1.0, kind: StepKind = StepKind.GENERATE, **values: float
) -> StepRecord:
    found = StepRecord(step, 0.0, kind, 0, int(seconds * SECOND_NS), time.time_ns(), values)
    found.nonfinite.update({name: 1 for name, value in values.items() if not math.isfinite(value)})
    return found


def a_pipeline(directory: Path | None = None, rank: int = 0, **settings: Any) -> Pipeline:
    identity = RunIdentity("r", algorithm="grpo", rank=rank)
    return Pipeline(identity, Settings(journal="off", **settings), directory)


def observe(of: Pipeline, *records: StepRecord) -> list[Anomaly]:
    return [anomaly for found in records for anomaly in of.step(found, 10.0, 0.5)]


def health(
    of: Pipeline, stall_limit_s: float | None = None, open_phase: OpenPhase | None = None
) -> tuple[bool, str]:
    """By default with what a step without evaluations and checkpoints may take."""
    limit_s = of.snapshot.stall_threshold_s if stall_limit_s is None else stall_limit_s
    return run_health.health(of.snapshot, of.end_of_run, limit_s, open_phase)
