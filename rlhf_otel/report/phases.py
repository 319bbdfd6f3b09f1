"""Where a run's time went, from the phases of its steps."""

from __future__ import annotations

import heapq
from typing import Final

from rlhf_otel.exporters.chrome_trace import TracedPhase, TracedStep
from rlhf_otel.records import StepRecord
from rlhf_otel.report.story import Phases, Record
from rlhf_otel.slow_steps.explanation import own_times

STRETCHES: Final = 60
"""Bars of the chart, at most."""
SLOWEST: Final = 5


class PhaseLedger:
    """Adds up own times: what no phase inside a phase accounts for, so that they sum to the steps' durations."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, float, dict[str, float]]] = []

    def add(self, written: Record, record: StepRecord) -> None:
        """One step; ``written`` is its journal record, which alone has phases."""
        rows = written.get("phases")
        if not rows:
            return
        duration_us = written.get("duration_ms", 0.0) * 1e3
        phases = [TracedPhase(r[0], r[1], r[2] * 1e3, r[3] * 1e3, r[4], len(r) > 5) for r in rows]
        times = own_times(TracedStep(record.step, 0, record.kind.value, 0.0, duration_us, phases))
        self._steps.append((record.step, duration_us / 1e6, _by_phase(times)))

    def result(self) -> Phases:
        """In at most :data:`STRETCHES` stretches of equally many steps."""
        stretch = max(1, -(-len(self._steps) // STRETCHES))
        found = Phases()
        for begin in range(0, len(self._steps), stretch):
            part = self._steps[begin : begin + stretch]
            found.stretches.append(part[0][0])
            found.seconds.append(_sum([times for _, _, times in part]))
        slowest = heapq.nlargest(SLOWEST, self._steps, key=lambda each: each[1])
        found.slowest = [
            (step, seconds, max(times, key=times.__getitem__)) for step, seconds, times in slowest if times
        ]
        return found


def _by_phase(times: dict[str, float]) -> dict[str, float]:
    """Seconds by phase, without the host's names for them."""
    found: dict[str, float] = {}
    for name, microseconds in times.items():
        phase = name.split(" ")[0]
        found[phase] = found.get(phase, 0.0) + microseconds / 1e6
    return found


def _sum(parts: list[dict[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in parts:
        for phase, seconds in part.items():
            found[phase] = found.get(phase, 0.0) + seconds
    return found
