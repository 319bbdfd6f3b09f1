"""Steps as their spans' tests make them up, and the spans that are built of one."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.resources import Resource

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.span_tree import build_spans
from rlhf_otel.records import Anomaly, PhaseInterval, RunIdentity, StepRecord

RESOURCE = Resource({})
IDENTITY = RunIdentity("run-7", attempt=2)
UNIX_END = 1_760_000_000_000_000_000


def phase(
    name: str, start: int, end: int, parent: int = -1, detail: str = "", failed: bool = False
) -> PhaseInterval:
    return PhaseInterval(name, detail, start, end, parent, end - start, failed)


def step(
    phases: list[PhaseInterval], values: dict[str, float] | None = None, end: int = 10_000
) -> StepRecord:
    return StepRecord(42, 0.5, StepKind.GENERATE, 0, end, UNIX_END, values or {}, phases=phases)


def anomaly(severity: Severity = Severity.CRITICAL, value: float = 3.0) -> Anomaly:
    return Anomaly(
        "NonFinite",
        severity,
        "loss",
        value,
        0.5,
        None,
        "value",
        value,
        42,
        42,
        UNIX_END - 5,
        "cause",
        "remedy",
    )


def build(
    record: StepRecord,
    identity: RunIdentity = IDENTITY,
    anomalies: tuple[Anomaly, ...] = (),
    kept_because: str = "slow",
) -> list[Any]:  # the SDK types whatever a span could lack as optional; ours lack nothing
    return build_spans(record, identity, anomalies, kept_because, RESOURCE)


GRPO_STEP = [
    phase("rollout", 1_000, 6_000),
    phase("generate", 1_200, 3_000, parent=0, detail="vLLM.generate"),
    phase("reward", 3_500, 5_500, parent=0),
    phase("reward_function", 3_600, 4_600, parent=2, detail="length_reward"),
    phase("loss", 6_500, 9_000),
]
