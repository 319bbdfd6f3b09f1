"""The ledger: every second of a run, from its begin to its end, belongs to exactly one phase.

What the training thread is in pays; what no phase accounts for is "other". The clock is monotonic, so that a
jump of the wall clock changes nothing.
"""

from __future__ import annotations

from time import perf_counter_ns

from rlhf_otel.records import OpenPhase
from rlhf_otel.sources.phases import PhaseRecorder, PhaseTotals


class Ledger:
    """Phase totals that sum to the wall time of the run."""

    def __init__(self, recorder: PhaseRecorder) -> None:
        self._recorder = recorder
        self._began_ns = perf_counter_ns()
        self._ended_ns: int | None = None
        self._other_shown = 0.0
        self._at_end: PhaseTotals | None = None

    def begin(self) -> None:
        """The run begins now."""
        self._began_ns = perf_counter_ns()

    def end(self) -> None:
        """The run ends now: what is open ends with it. Takes no lock: it may be called by a signal handler."""
        self._recorder.stop()
        self._ended_ns = perf_counter_ns()

    def totals(self) -> PhaseTotals:
        """Totals until now, or until the end of the run; from any thread.

        None is ever less than at the call before: what moves from "other" to a phase only when that ends
        makes "other" wait.
        """
        if self._at_end is not None:
            return self._at_end
        ended = self._ended_ns
        now = perf_counter_ns() if ended is None else ended
        totals = self._recorder.totals(now)
        seconds = totals.seconds
        rest = max(0.0, (now - self._began_ns) * 1e-9 - sum(seconds.values()))
        seconds["other"] = self._other_shown = max(seconds["other"] + rest, self._other_shown)
        if ended is not None:
            self._at_end = totals
        return totals

    def open_phase(self) -> OpenPhase | None:
        """Where the training thread is now, from any thread; None once the run has ended."""
        if self._ended_ns is not None:
            return None
        phase, since_ns = self._recorder.whereabouts()
        return OpenPhase(phase, max(0, perf_counter_ns() - max(since_ns, self._began_ns)) * 1e-9)
