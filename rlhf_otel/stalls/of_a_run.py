"""The watch for stalls as a run has it: what it looks at, and who is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from rlhf_otel import run_health
from rlhf_otel.catalogue.spans import ABSORBING
from rlhf_otel.detection.stall_limit import Absorbed
from rlhf_otel.exporters.journal_records import stall_record
from rlhf_otel.exporters.stacks import StackFile, named
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import OpenPhase, Snapshot
from rlhf_otel.settings import Settings
from rlhf_otel.sources.ledger import Ledger
from rlhf_otel.sources.phases import PhaseTotals
from rlhf_otel.stalls.watch import Sight, Stall, StallWatch
from rlhf_otel.step_recorder import StepRecorder

logger = logging.getLogger("rlhf_otel")


class RunStalls:
    """Watches one run."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        ledger: Ledger,
        steps: StepRecorder,
        last_step: Callable[[], int],
        directory: Path | None,
    ) -> None:
        """``directory`` is for the file of stacks; None where none has a name."""
        self.count = 0
        """Stalls so far."""
        self._pipeline = pipeline
        self._ledger = ledger
        self._steps = steps
        self._last_step = last_step
        self._directory = directory
        wanted = settings.stall_stacks == "on"
        self._watch = StallWatch(
            self._see, self._tell, settings.stall_floor_s, self._file if wanted else None
        )
        self.start, self.stop, self.close = self._watch.start, self._watch.stop, self._watch.close
        self.stacks: Callable[[], str] | None = self._stacks if wanted else None
        """Says what all threads do now, and did at the last stall; None where that is switched off."""

    def limit_s(self, snapshot: Snapshot, totals: PhaseTotals, open_phase: OpenPhase | None) -> float:
        """How long the step after ``snapshot`` may take, as it is now. Totals are no older than the snapshot."""
        absorbed = Absorbed(sum(totals.seconds[phase] for phase in ABSORBING), totals.longest)
        return self._pipeline.limits.now_s(snapshot, absorbed, open_phase)

    def health(self) -> tuple[bool, str]:
        """Whether the run is well, its stalls included; and why."""
        snapshot = self._pipeline.snapshot  # first: what is newer may only make the limit longer
        totals, open_phase = self._ledger.totals(), self._ledger.open_phase()
        limit_s = self.limit_s(snapshot, totals, open_phase)
        return run_health.health(snapshot, self._pipeline.end_of_run, limit_s, open_phase)

    def _see(self) -> Sight | None:
        snapshot = self._pipeline.snapshot  # first: what is newer may only make the limit longer
        totals, open_phase = self._ledger.totals(), self._ledger.open_phase()
        if open_phase is None or self._pipeline.end_of_run is not None:
            return None
        limit_s = self.limit_s(snapshot, totals, open_phase)
        return Sight(self._last_step() + 1, self._steps.began_ns, limit_s, open_phase, totals.seconds)

    def _tell(self, stall: Stall) -> None:
        self.count += 1
        identity = self._pipeline.identity
        logger.warning(
            "rank %d stalls: step %d has taken %.1f s, and may take %.1f s at most; it has been in %s for %.1f s%s%s",
            identity.rank,
            stall.step,
            stall.seconds,
            stall.limit_s,
            stall.phase,
            stall.phase_s,
            "; the interpreter was held until now" if stall.gil_held else "",
            f"; stacks of all threads: {stall.path}" if stall.path else "",
        )
        self._pipeline.note(stall_record(stall, identity.rank))

    def _stacks(self) -> str:
        now = f"Stacks of all threads of rank {self._pipeline.identity.rank} now\n\n{self._watch.stacks()}"
        latest = self._watch.latest
        return f"{now}\n\nStacks at the last stall\n\n{latest}" if latest else f"{now}\n\nNo stall so far.\n"

    def _file(self, training_thread: int) -> StackFile:
        identity = self._pipeline.identity
        directory, rank = self._directory, identity.rank
        head = (
            f"\nRun {identity.run_id!a}, attempt {identity.attempt}, rank {rank}: "
            f"thread {named(training_thread)} trains\n"
        )
        return StackFile(directory / f"stacks-rank{rank}.txt" if directory is not None else None, head)
