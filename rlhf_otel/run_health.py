"""Whether a run is well, in a sentence: what ``/healthz`` says."""

from __future__ import annotations

import time

from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.records import OpenPhase, RunEnd, Snapshot


def health(
    snapshot: Snapshot, end: RunEnd | None, stall_limit_s: float, open_phase: OpenPhase | None
) -> tuple[bool, str]:
    """Whether steps arrive and are sound, or the run has ended well; and why. ``stall_limit_s`` is how long the step in
    progress may take."""
    if end is not None:
        said = f"run {end.outcome} at step {end.step}: {end.reason}".rstrip(": ")
        return end.outcome is not Outcome.FAILED, said
    waited = time.time() - snapshot.time_s
    if waited > stall_limit_s:
        where = f", in {open_phase.phase} for {open_phase.seconds:.0f} s" if open_phase is not None else ""
        return False, f"stalled: no step for {waited:.0f} s after step {snapshot.step}{where}"
    for verdict in snapshot.verdicts:
        if verdict.active and verdict.rule.name == "NonFinite":
            what = f"non-finite {verdict.signal} at step {verdict.first_step}"
            return False, f"{what}: {verdict.rule.summary}"
    return True, f"ok: step {snapshot.step}"
