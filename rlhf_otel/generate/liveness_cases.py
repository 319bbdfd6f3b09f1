"""Lives of runs: what the alerts about a process that ends, hangs or is gone tell apart.

Values are in promtool's notation at one sample per scrape of 15 s.
"""

from __future__ import annotations

from typing import Final

from rlhf_otel.generate.case_series import (
    Case,
    end,
    open_phase,
    process_start,
    progress,
    scraped,
    threshold,
    usual,
)


def _ended(outcome: str, others: tuple[str, str], observed: str = "", **labels: str) -> list[Case]:
    """Runs of which ``bad`` ended so, others otherwise, and one was resumed since; ``labels`` are the alert's more."""
    series = {
        **progress("bad", "b", "0+15x20 300 stale _x200"),
        **end("bad", "b", "_x20 301 stale _x200", outcome),
    }
    for other in others:
        series |= progress(other, other, "0+15x20 300 stale _x200")
        series |= end(other, other, "_x20 301 stale _x200", other)
    series |= progress("again", "a", "0+15x4 60 stale _x200")
    series |= end("again", "a", "_x4 61 stale _x200", outcome)
    series |= progress("again", "a2", "_x10 150+15x200")
    firing = {"run_id": "bad", "outcome": outcome, **labels}
    return [
        Case(f"{outcome}; ended otherwise; {outcome} and then resumed", series, (firing,), observed=observed)
    ]


LIFE: Final[dict[str, str]] = {
    # hangs with the endpoint alive
    **progress("hang", "h", "0+15x8 120x200"),
    **threshold("hang", "h", "90x208"),
    **open_phase("hang", "0", "reward", "_x9 15+15x200", "h", "reward_function"),
    **usual("hang", "1.25x208"),
    # stopped, or holding the GIL: scrapes wait in vain
    **progress("stopped", "t", "0+15x8 stale _x200"),
    **threshold("stopped", "t", "90x8 stale _x200"),
    **open_phase("stopped", "0", "data", "0.2x7 stale _x200", "t"),
    **open_phase("stopped", "0", "generate", "_x8 0.5 stale _x200", "t"),
    **scraped("t", "1x8 0x200", "0.01x8 10x200"),
    # so, with steps of half an hour: 2 minutes without an answer are enough
    **progress("slow-stopped", "u", "0x25 stale _x200"),
    **threshold("slow-stopped", "u", "5400x25 stale _x200"),
    **scraped("u", "1x25 0x200", "0.01x25 10x200"),
    # hangs, which pages, and is killed in the end
    **progress("hang-killed", "hk", "0+15x8 120x13 stale _x200"),
    **threshold("hang-killed", "hk", "90x21 stale _x200"),
    **scraped("hk", "1x21 0x200", "0.01x21 0.001x200"),
    # killed: the port refuses
    **progress("kill", "k", "0+15x8 stale _x200"),
    **threshold("kill", "k", "90x8 stale _x200"),
    **scraped("k", "1x8 0x200", "0.01x8 0.001x200"),
    # killed, and its pod's address is taken away once that has paged
    **progress("unrouted", "n", "0+15x8 stale _x200"),
    **threshold("unrouted", "n", "90x8 stale _x200"),
    **scraped("n", "1x8 0x200", "0.01x8 0.001x22 10x200"),
    # killed with its pod: no target any more
    **progress("removed", "m", "0+15x8 stale _x200"),
    **threshold("removed", "m", "90x8 stale _x200"),
    **scraped("m", "1x8 stale", "0.01x8 stale"),
    # ends well
    **progress("ok", "o", "0+15x8 120 stale _x200"),
    **threshold("ok", "o", "90x9 stale _x200"),
    **end("ok", "o", "_x8 125 stale _x200"),
    # pre-empted
    **progress("preempted", "e", "0+15x8 120 stale _x200"),
    **threshold("preempted", "e", "90x9 stale _x200"),
    **end("preempted", "e", "_x8 125 stale _x200", "interrupted"),
    # killed on host p, resumed on host q under the same run id, finished there
    **progress("resumed", "p", "0+15x4 stale _x200"),
    **threshold("resumed", "p", "90x4 stale _x200"),
    **progress("resumed", "q", "_x6 90+15x6 stale _x200"),
    **threshold("resumed", "q", "_x6 90x6 stale _x200"),
    **end("resumed", "q", "_x12 181 stale _x200"),
    # stopped on host v, whose place host w has taken
    **progress("moved", "v", "0+15x4 stale _x200"),
    **threshold("moved", "v", "90x4 stale _x200"),
    **scraped("v", "1x4 0x200", "0.01x4 10x200"),
    **progress("moved", "w", "_x6 90+15x200"),
    **threshold("moved", "w", "_x6 90x200"),
    # steps of half an hour
    **progress("slow", "s", "0x119 1800x100"),
    **threshold("slow", "s", "5400x220"),
    # evaluates, or saves a checkpoint: the process raises the threshold
    **progress("evaluates", "ev", "0+15x8 120x200"),
    **threshold("evaluates", "ev", "90x8 3600x200"),
    # one failed scrape, and one just now, that waited in vain
    **progress("gap", "g", "0+15x20 stale 330+15x200"),
    **threshold("gap", "g", "90x20 stale 90x200"),
    **progress("gap-now", "gn", "0+15x39 stale _x200"),
    **threshold("gap-now", "gn", "10x39 stale _x200"),
    **scraped("gn", "1x39 0x200", "0.01x39 10x200"),
    # Prometheus was away, for longer than a run may be without a step
    **progress("unwatched", "aw", "0+15x30 _x200"),
    **threshold("unwatched", "aw", "90x30 _x200"),
    **scraped("aw", "1x30 _x200", "0.01x30 _x200"),
}
"""Lives of runs: what the alerts about the process tell apart."""

RANKS: Final[dict[str, str]] = {
    # one rank of two is killed, whereupon the launcher ends the other with SIGTERM
    **progress("rank-killed", "r0", "0+15x8 120 stale _x200"),
    **end("rank-killed", "r0", "_x8 125 stale _x200", "interrupted"),
    **progress("rank-killed", "r1", "0+15x8 stale _x200", rank="1"),
    **threshold("rank-killed", "r1", "90x8 stale _x200", rank="1"),
    # one rank of two is killed, and the other hangs in a collective
    **progress("collective", "c0", "0+15x8 120x200"),
    **threshold("collective", "c0", "60x208"),
    **progress("collective", "c1", "0+15x8 stale _x200", rank="1"),
    **threshold("collective", "c1", "60x8 stale _x200", rank="1"),
    **scraped("c1", "1x8 0x200", "0.01x8 0.001x200"),
    # one rank of two is killed, which is an error of a collective on the other
    **progress("killed-then-failed", "kf0", "0+15x8 120 stale _x200"),
    **end("killed-then-failed", "kf0", "_x8 125x5 stale _x200", "failed"),
    **progress("killed-then-failed", "kf1", "0+15x8 stale _x200", rank="1"),
    # one of two fails, and the other is killed by the launcher a minute later
    **progress("failed-then-killed", "fk0", "0+15x8 120 stale _x200"),
    **end("failed-then-killed", "fk0", "_x8 125x5 stale _x200", "failed"),
    **progress("failed-then-killed", "fk1", "0+15x8 120x10 stale _x200", rank="1"),
    # one of two hangs by itself; each in a pod of its own
    **progress("one-hangs", 'l0",pod="p0', "0+15x8 120x200"),
    **threshold("one-hangs", 'l0",pod="p0', "60x208"),
    **open_phase("one-hangs", "0", "reward", "_x9 16+15x200", "l0"),
    **progress("one-hangs", 'l1",pod="p1', "0+15x8 120x200", rank="1"),
    **threshold("one-hangs", 'l1",pod="p1', "75x208", rank="1"),
    **open_phase("one-hangs", "1", "reward", "_x9 15+15x200", "l1", "reward_function"),
    # one of two is stopped
    **progress("one-stopped", "t0", "0+15x8 120x200"),
    **threshold("one-stopped", "t0", "60x208"),
    **open_phase("one-stopped", "0", "backward", "_x9 15+15x200", "t0"),
    **progress("one-stopped", "t1", "0+15x8 stale _x200", rank="1"),
    **threshold("one-stopped", "t1", "60x8 stale _x200", rank="1"),
    **scraped("t1", "1x8 0x200", "0.01x8 10x200"),
    # three hang in collective phases, of which one in another
    **progress("differs", "d0", "0+15x8 120x200"),
    **threshold("differs", "d0", "60x208"),
    **open_phase("differs", "0", "backward", "_x9 16+15x200", "d0"),
    **open_phase("differs", "1", "loss", "_x9 15+15x200", "d1"),
    **open_phase("differs", "2", "backward", "_x9 16+15x200", "d2"),
    # both are pre-empted
    **progress("both", "b0", "0+15x8 120 stale _x200"),
    **end("both", "b0", "_x8 125 stale _x200", "interrupted"),
    **progress("both", "b1", "0+15x8 stale _x200", rank="1"),
    **end("both", "b1", "_x8 126 stale _x200", "interrupted", rank="1"),
    # two ranks are killed, and the run goes on with one
    **progress("shrunk", "s0", "0+15x4 stale _x200"),
    **process_start("shrunk", "s0", "0x4 stale _x200"),
    **progress("shrunk", "s1", "0+15x4 stale _x200", rank="1"),
    **threshold("shrunk", "s1", "90x4 stale _x200", rank="1"),
    **progress("shrunk", "s2", "_x9 135+15x200"),
    **process_start("shrunk", "s2", "_x9 135x200"),
    **threshold("shrunk", "s2", "_x9 90x200"),
}
"""Lives of runs of several ranks."""

_NO_ANSWER: Final = "does not answer: it is stopped, holds the interpreter's lock, or its node is lost"


def _stalled(observed: str, stacks: str) -> dict[str, str]:
    return {"observed": observed, "stacks": stacks}


def _file(rank: str) -> str:
    return f"stacks-rank{rank}.txt beside the journal"


LIVENESS_CASES: Final[dict[str, list[Case]]] = {
    "RunFailed": [
        *_ended("failed", ("finished", "interrupted"), "failed: rank 0 "),
        Case(
            "lives of several ranks",
            RANKS,
            ({"run_id": "failed-then-killed", "outcome": "failed"},),
            observed="failed: rank 0 ",
        ),
    ],
    "RunInterrupted": _ended("interrupted", ("finished", "failed"), rank="0"),
    "RunFinished": _ended("finished", ("failed", "interrupted"), rank="0"),
    "RunStalled": [
        Case(
            "lives",
            LIFE,
            tuple({"run_id": run} for run in ("hang", "stopped", "slow-stopped", "hang-killed")),
            facts={
                "hang": _stalled(
                    "rank 0 has been in reward for 480 s; a step usually takes 1.25 s",
                    f"http://h/stacks, or {_file('0')}",
                ),
                "stopped": _stalled(f"rank 0 {_NO_ANSWER}; it was in generate 480 s ago", _file("0")),
                "slow-stopped": _stalled(f"rank 0 {_NO_ANSWER}", _file("0")),
                "hang-killed": _stalled(f"rank 0 {_NO_ANSWER}", _file("0")),
            },
        ),
        Case(
            "lives of several ranks",
            RANKS,
            tuple({"run_id": run} for run in ("one-hangs", "one-stopped", "differs")),
            facts={
                "one-hangs": _stalled(
                    "rank 1 has been in reward for 480 s", f"http://l1/stacks, or {_file('1')}"
                ),
                "one-stopped": _stalled(f"rank 1 {_NO_ANSWER}", _file("1")),
                "differs": _stalled(
                    "rank 1 has been in loss for 480 s", f"http://d1/stacks, or {_file('1')}"
                ),
            },
        ),
    ],
    "RunGone": [
        Case(
            "lives",
            LIFE,
            tuple({"run_id": run} for run in ("kill", "unrouted", "removed")),
            observed="gone: rank 0 ",
        ),
        Case(
            "lives of several ranks",
            RANKS,
            tuple({"run_id": run} for run in ("rank-killed", "collective", "killed-then-failed")),
            observed="gone: rank 1 ",
        ),
    ],
}
