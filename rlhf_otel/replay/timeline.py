"""When a run's steps are said to have been, on Prometheus' time axis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final, NamedTuple

from rlhf_otel.errors import ReplayError

SAFE_AGE_S: Final = 3 * 3600.0
"""How old samples have to be: the last hours are still in Prometheus' head, and no rule looks back further than 2
hours, so that a run that is over pages nobody."""
STEP_S: Final = 15.0
"""Between two steps of a log without times: one scrape."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


class Timeline(NamedTuple):
    """Unix time of each step, in seconds, and what is to be known of it."""

    times: tuple[float, ...]
    label: str
    """``""`` for the real times, ``"shifted"``, or ``"synthetic"`` where the log has none."""

    @property
    def span(self) -> str:
        """First and last time, for people."""
        return f"{moment(self.times[0])} to {moment(self.times[-1])}"


def duration_s(text: str) -> float:
    """Seconds of a duration as Prometheus writes it, such as ``15d`` or ``1h30m``. ReplayError for another text."""
    parts = re.findall(r"(\d+)([smhdwy])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ReplayError(f"{text!r} is no duration; one reads like 15d or 12h")
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


def moment(time_s: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def timeline(
    times: Sequence[float],
    timed: bool,
    now_s: float,
    retention_s: float,
    shift: bool = False,
    step_s: float = STEP_S,
) -> Timeline:
    """Place a run. Times that Prometheus would delete at once, or still writes itself, are a ReplayError."""
    end = now_s - SAFE_AGE_S
    times = tuple(accumulate(times, max))  # of a run that was resumed on a host whose clock is behind
    if not timed:
        count = len(times)
        placed = Timeline(tuple(end - step_s * (count - 1 - index) for index in range(count)), "synthetic")
    elif shift:
        placed = Timeline(tuple(time - times[-1] + end for time in times), "shifted")
    else:
        placed = Timeline(times, "")
    _check(placed, now_s, retention_s)
    return placed


def _check(placed: Timeline, now_s: float, retention_s: float) -> None:
    age = now_s - placed.times[0]
    if age > retention_s:
        days = int(-(-age // 86400)) + 1
        hint = {
            "": ", or place the run at recent times with --shift",
            "shifted": "",
            "synthetic": ", or put the steps closer together with --step-seconds",
        }[placed.label]
        raise ReplayError(
            f"the run's first step is {age / 86400:.1f} days old, and Prometheus deletes what is older than "
            f"{retention_s / 86400:g} days. Start Prometheus with --storage.tsdb.retention.time={days}d and say so here "
            f"with --retention {days}d{hint}."
        )
    if placed.times[-1] > now_s - SAFE_AGE_S:
        raise ReplayError(
            f"the run's last step was at {moment(placed.times[-1])}, less than 3 hours ago: Prometheus still writes that "
            f"time itself. Wait until {moment(placed.times[-1] + SAFE_AGE_S)}, or place the run earlier with --shift."
        )
