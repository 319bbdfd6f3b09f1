"""Analysis of a run's checkpoints in a process of their own, so that no step waits for it.

A thread would hold the interpreter's lock against the training thread; a process at idle priority gets only
the time that training leaves over. One checkpoint is analysed at a time. Of those that are saved meanwhile the
newest waits, and older ones are passed over and counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel import faults
from rlhf_otel.records import StepRecord

logger = logging.getLogger("rlhf_otel")

ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PRIORITY: list[str] = ["--idle"]
"""Arguments of the process; a test on a busy machine empties it."""
STOP_S: Final = 5.0
"""Bound for the end of the process, once it has been killed."""
NONFINITE: Final = "non-finite"
"""The kind of finding that says so of weights."""
MAX_TOLD: Final = 20
"""Findings of a checkpoint that are handed on; the worst come first."""


class Analysis(NamedTuple):
    """What was found out about a saved checkpoint."""

    step: int
    path: str
    health: float = math.nan
    drift: float | None = None
    """‖Δ‖/‖w‖ from the checkpoint before; None without one."""
    reference_drift: float | None = None
    findings: tuple[Mapping[str, str], ...] = ()
    counts: Mapping[str, int] = {}
    """Findings by the name of their kind."""
    seconds: float = 0.0
    error: str = ""
    """Why it could not be analysed; the rest is then empty."""

    @property
    def nonfinite_weights(self) -> int:
        """Findings of weights that are NaN or infinite."""
        return self.counts.get(NONFINITE, 0)

    @property
    def sentence(self) -> str:
        """The worst finding, for people."""
        if not self.findings:
            return f"{Path(self.path).name}: no finding"
        worst = self.findings[0]
        more = f"; {sum(self.counts.values()) - 1} more" if sum(self.counts.values()) > 1 else ""
        return f"{Path(self.path).name}: {worst['name']} in {worst['where']}: {worst['evidence']}{more}"


class CheckpointAnalysis:
    """Hands saved checkpoints to the process, and on what it found."""

    def __init__(self, found: Callable[[Analysis], object], reference: Path | None = None) -> None:
        """``found`` is called with each analysis, on a thread of this class."""
        self._found = found
        self._reference = str(reference) if reference is not None else None
        self._next: tuple[int, Path] | None = None
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self.latest: Analysis | None = None
        """The last one that succeeded."""
        self._told: Analysis | None = None
        self.outcomes: Counter[str] = Counter()
        """How many were done, failed, or passed over because a newer one came."""

    def submit(self, step: int, path: Path) -> None:
        """Have a checkpoint analysed; never waits."""
        with self._changed:
            if self._closed:
                return
            if self._next is not None:
                self.outcomes["skipped"] += 1
            self._next = (step, path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="rlhf_otel-checkpoints", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def signals(self) -> dict[str, float]:
        """The signals of the last checkpoint that was analysed."""
        return signals(self.latest) if self.latest is not None else {}

    def add_findings(self, record: StepRecord) -> None:
        """Say in a step's record what the last analysis found: weights that are not finite once, at the first step
        after it."""
        latest = self.latest
        if latest is None:
            return
        record.details["checkpoint_health"] = latest.sentence
        if latest is not self._told and latest.nonfinite_weights:
            record.nonfinite["weights"] = latest.nonfinite_weights
            record.details["weights"] = latest.sentence
        self._told = latest

    def close(self, timeout_s: float) -> None:
        """Wait ``timeout_s`` at most for what is under way, then end the process."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy and self._next is None, timeout_s)
            self._closed = True
            self._changed.notify_all()
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
        if self._thread is not None:
            self._thread.join(STOP_S)

    # --- on its own thread

    def _work(self) -> None:
        try:
            while (asked := self._take()) is not None:
                analysis = self._analyse(*asked)
                with faults.isolated("checkpoints", "handing on the analysis of a checkpoint"):
                    self._hand_on(analysis)
        finally:
            self._end()

    def _take(self) -> tuple[int, Path] | None:
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._closed or self._next is not None)
            if self._closed:
                return None
            asked, self._next, self._busy = self._next, None, True
            return asked

    def _hand_on(self, analysis: Analysis) -> None:
        if self._closed:
            return
        self.outcomes["failed" if analysis.error else "done"] += 1
        if not analysis.error:
            self.latest = analysis
        elif Path(analysis.path).exists():
            logger.warning("%s could not be analysed: %s", analysis.path, analysis.error)
        self._found(analysis)

    def _analyse(self, step: int, path: Path) -> Analysis:
        request = {"path": str(path), "reference": self._reference}
        try:
            answer = json.loads(self._ask(json.dumps(request)))
        except (OSError, ValueError) as error:
            answer = {"error": f"the process that analyses ended: {error}"}
        return analysis_of(step, path, answer)

    def _ask(self, request: str) -> str:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(request + "\n")
        process.stdin.flush()
        return process.stdout.readline()

    def _running(self) -> subprocess.Popen[str]:
        with self._changed:  # close() either sees the process, or prevents it
            if self._closed:
                raise OSError("the run has ended")
            if self._process is None or self._process.poll() is not None:
                self._process = _start()
            return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)


def analysis_of(step: int, path: Path, answer: Mapping[str, Any]) -> Analysis:
    """The worker's answer as an analysis."""
    if "error" in answer:
        return Analysis(step, str(path), error=str(answer["error"]))
    findings = answer["findings"]
    told = tuple(
        {key: one[key] for key in ("name", "severity", "where", "evidence")} for one in findings[:MAX_TOLD]
    )
    change = answer["change"]
    return Analysis(
        step,
        str(path),
        float(answer["health"]),
        None if change is None else float(change["drift"]),
        None if answer["reference_drift"] is None else float(answer["reference_drift"]),
        told,
        dict(Counter(one["name"] for one in findings)),
        float(answer["seconds"]),
    )


def signals(analysis: Analysis) -> dict[str, float]:
    """An analysis as signals of a step."""
    found = {"checkpoint_health": analysis.health, "weights": float(analysis.nonfinite_weights)}
    if analysis.drift is not None:
        found["checkpoint_drift"] = analysis.drift
    if analysis.reference_drift is not None:
        found["checkpoint_reference_drift"] = analysis.reference_drift
    return found


def _start() -> subprocess.Popen[str]:
    """Its own failures are told in its answers; what libraries say beside that is of no interest."""
    return subprocess.Popen(
        [sys.executable, "-m", "rlhf_otel.checkpoints.worker", *PRIORITY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
        text=True,
        encoding="utf-8",
    )


def child_environment() -> dict[str, str]:
    """One thread, no GPU, and no instrumentation of that process; this package is found where it is here."""
    package = str(Path(__file__).resolve().parent.parent.parent)
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    places = [place for place in places if "auto_instrumentation" not in place]
    return {
        **os.environ,
        **dict.fromkeys(ONE_THREAD, "1"),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([*places, package]),
    }
