"""Recorded series of a replayed run: Prometheus evaluates no rule for the past, and boards ask for them.

Those whose metrics a log can tell of: phases and processes are of a run that was observed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from rlhf_otel.catalogue.recorded import BOARD_OF_RUN, RunState
from rlhf_otel.catalogue.run_boards import board_of
from rlhf_otel.catalogue.spans import Outcome
from rlhf_otel.detection.promql import RANGE_SCRAPES
from rlhf_otel.records import RunEnd, RunIdentity

_STATE: Final = {
    Outcome.FINISHED: RunState.FINISHED,
    Outcome.FAILED: RunState.FAILED,
    Outcome.INTERRUPTED: RunState.INTERRUPTED,
}


class Sample(NamedTuple):
    """Of a recorded series, without the labels that all series of the run have."""

    name: str
    labels: dict[str, str]
    value: float


class Recording:
    """What the recording rules would have made of the run at each scrape."""

    def __init__(self, identity: RunIdentity, started_s: float, scrape_s: float) -> None:
        self._run = {"run_id": identity.run_id}
        self._board = board_of(identity.algorithm)
        self._started_s = started_s
        self._window_s = RANGE_SCRAPES * scrape_s
        self._counts: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)

    def at(self, time_s: float, nonfinite: Mapping[str, int], end: RunEnd | None) -> Iterator[Sample]:
        """Samples of a scrape; ``nonfinite`` counts since the start of the run, by signal."""
        state = RunState.RUNNING if end is None else _STATE[end.outcome]
        yield Sample("run:rlhf_state:current", self._run, state.value)
        yield Sample(BOARD_OF_RUN, {**self._run, "board": self._board}, 1.0)
        yield Sample("run:rlhf_ranks:count", self._run, 1.0)
        yield Sample("run:rlhf_rank_seconds:sum", self._run, time_s - self._started_s)
        for signal, count in nonfinite.items():
            labels = {**self._run, "signal": signal}
            yield Sample(
                "run_signal:rlhf_signal_nonfinite:increase", labels, self._increase(signal, time_s, count)
            )

    def _increase(self, signal: str, time_s: float, count: int) -> float:
        """Within the window; what a run begins with counts too."""
        counts = self._counts[signal]
        if not counts or counts[-1][1] != count:
            counts.append((time_s, count))
        before = bisect_right(counts, time_s - self._window_s, key=lambda each: each[0])
        return float(count - (counts[before - 1][1] if before else 0))
