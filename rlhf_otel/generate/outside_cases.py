"""Series on which alerts with a given expression must fire, and on which they must stay silent.

Values are in promtool's notation at one sample per scrape of 15 s; run ``bad`` and the like must fire, all
others not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rlhf_otel.catalogue.spans import PHASE_BY_NAME


class Case(NamedTuple):
    """One promtool test."""

    name: str
    series: Mapping[str, str]
    firing: tuple[Mapping[str, str], ...]
    """Labels of the alerts that must fire, without the alert's own."""
    evaluated_after: str = "10m"
    observed: str = ""
    trace_id: str = ""
    facts: Mapping[str, Mapping[str, str]] = {}
    """Run to what a page says of it, beyond a run of which nothing is known."""


def _progress(run: str, instance: str, values: str, rank: str = "0") -> dict[str, str]:
    return {
        f'rlhf_last_progress_timestamp_seconds{{run_id="{run}",rank="{rank}",instance="{instance}"}}': values
    }


def _threshold(run: str, instance: str, values: str, rank: str = "0") -> dict[str, str]:
    return {f'rlhf_stall_threshold_seconds{{run_id="{run}",rank="{rank}",instance="{instance}"}}': values}


def _started(run: str, instance: str, values: str) -> dict[str, str]:
    return {f'rlhf_process_start_time_seconds{{run_id="{run}",rank="0",instance="{instance}"}}': values}


def _end(run: str, instance: str, values: str, outcome: str = "finished", rank: str = "0") -> dict[str, str]:
    labels = f'run_id="{run}",outcome="{outcome}",rank="{rank}",instance="{instance}"'
    return {f"rlhf_run_end_timestamp_seconds{{{labels}}}": values}


def _nonfinite(run: str, instance: str, values: str, started: str, rank: str = "0") -> dict[str, str]:
    labels = f'run_id="{run}",rank="{rank}",instance="{instance}"'
    return {
        f'rlhf_signal_nonfinite_total{{{labels},signal="loss"}}': values,
        f"rlhf_process_start_time_seconds{{{labels}}}": started,
    }


def _phase(run: str, rank: str, phase: str, values: str, collective: str = "") -> dict[str, str]:
    scope = PHASE_BY_NAME[phase].scope_in(collective)
    labels = f'run_id="{run}",rank="{rank}",phase="{phase}",scope="{scope}",instance="{rank}"'
    return {f"rlhf_phase_seconds_total{{{labels}}}": values}


def _series(metric: str, run: str, values: str, **labels: str) -> dict[str, str]:
    text = "".join(f',{name}="{value}"' for name, value in labels.items())
    return {f'{metric}{{run_id="{run}"{text},rank="0",instance="i"}}': values}


def _ended(outcome: str, others: tuple[str, str], observed: str = "", **labels: str) -> list[Case]:
    """Runs of which ``bad`` ended so, others otherwise, and one was resumed since; ``labels`` are the alert's more."""
    series = {
        **_progress("bad", "b", "0+15x20 300 stale _x200"),
        **_end("bad", "b", "_x20 301 stale _x200", outcome),
    }
    for other in others:
        series |= _progress(other, other, "0+15x20 300 stale _x200")
        series |= _end(other, other, "_x20 301 stale _x200", other)
    series |= _progress("again", "a", "0+15x4 60 stale _x200")
    series |= _end("again", "a", "_x4 61 stale _x200", outcome)
    series |= _progress("again", "a2", "_x10 150+15x200")
    firing = {"run_id": "bad", "outcome": outcome, **labels}
    return [
        Case(f"{outcome}; ended otherwise; {outcome} and then resumed", series, (firing,), observed=observed)
    ]


def _faults(run: str, values: str) -> dict[str, str]:
    labels = f'run_id="{run}",place="journal",rank="0",instance="i"'
    return {f"rlhf_telemetry_faults_total{{{labels}}}": values}


def _collapsed(run: str) -> dict[str, str]:
    return {
        f'rlhf_signal_shift{{run_id="{run}",signal="reward",instance="i"}}': "-10x80",
        f'rlhf_signal_zscore{{run_id="{run}",signal="reward",instance="i"}}': "-5x80",
        f'rlhf_rule_breach_steps{{run_id="{run}",rule="RewardCollapse",instance="i"}}': "10+1x80",
    }


def _verdict(run: str, rule: str, values: str) -> dict[str, str]:
    labels = f'run_id="{run}",rule="{rule}",severity="critical",instance="i"'
    return {f"rlhf_anomaly_active{{{labels}}}": values}


def _scraped(instance: str, up: str, seconds: str) -> dict[str, str]:
    """What Prometheus says of a target: whether its scrapes succeed, and how long they take."""
    return {
        f'up{{instance="{instance}"}}': up,
        f'scrape_duration_seconds{{instance="{instance}"}}': seconds,
    }


def _open(run: str, rank: str, phase: str, values: str, instance: str, charged: str = "") -> dict[str, str]:
    """The phase that a rank is in, and the total that its time is ``charged`` to, by default of the same name."""
    labels = f'run_id="{run}",rank="{rank}",phase="{phase}",instance="{instance}"'
    return {f"rlhf_open_phase_seconds{{{labels}}}": values, **_phase(run, rank, charged or phase, "0+15x200")}


def _usual(run: str, values: str) -> dict[str, str]:
    return {f'rlhf_signal_baseline{{run_id="{run}",signal="step_duration",instance="i"}}': values}


LIFE: Final[dict[str, str]] = {
    # hangs with the endpoint alive
    **_progress("hang", "h", "0+15x8 120x200"),
    **_threshold("hang", "h", "90x208"),
    **_open("hang", "0", "reward", "_x9 15+15x200", "h", "reward_function"),
    **_usual("hang", "1.25x208"),
    # stopped, or holding the GIL: scrapes wait in vain
    **_progress("stopped", "t", "0+15x8 stale _x200"),
    **_threshold("stopped", "t", "90x8 stale _x200"),
    **_open("stopped", "0", "data", "0.2x7 stale _x200", "t"),
    **_open("stopped", "0", "generate", "_x8 0.5 stale _x200", "t"),
    **_scraped("t", "1x8 0x200", "0.01x8 10x200"),
    # so, with steps of half an hour: 2 minutes without an answer are enough
    **_progress("slow-stopped", "u", "0x25 stale _x200"),
    **_threshold("slow-stopped", "u", "5400x25 stale _x200"),
    **_scraped("u", "1x25 0x200", "0.01x25 10x200"),
    # hangs, which pages, and is killed in the end
    **_progress("hang-killed", "hk", "0+15x8 120x13 stale _x200"),
    **_threshold("hang-killed", "hk", "90x21 stale _x200"),
    **_scraped("hk", "1x21 0x200", "0.01x21 0.001x200"),
    # killed: the port refuses
    **_progress("kill", "k", "0+15x8 stale _x200"),
    **_threshold("kill", "k", "90x8 stale _x200"),
    **_scraped("k", "1x8 0x200", "0.01x8 0.001x200"),
    # killed, and its pod's address is taken away once that has paged
    **_progress("unrouted", "n", "0+15x8 stale _x200"),
    **_threshold("unrouted", "n", "90x8 stale _x200"),
    **_scraped("n", "1x8 0x200", "0.01x8 0.001x22 10x200"),
    # killed with its pod: no target any more
    **_progress("removed", "m", "0+15x8 stale _x200"),
    **_threshold("removed", "m", "90x8 stale _x200"),
    **_scraped("m", "1x8 stale", "0.01x8 stale"),
    # ends well
    **_progress("ok", "o", "0+15x8 120 stale _x200"),
    **_threshold("ok", "o", "90x9 stale _x200"),
    **_end("ok", "o", "_x8 125 stale _x200"),
    # pre-empted
    **_progress("preempted", "e", "0+15x8 120 stale _x200"),
    **_threshold("preempted", "e", "90x9 stale _x200"),
    **_end("preempted", "e", "_x8 125 stale _x200", "interrupted"),
    # killed on host p, resumed on host q under the same run id, finished there
    **_progress("resumed", "p", "0+15x4 stale _x200"),
    **_threshold("resumed", "p", "90x4 stale _x200"),
    **_progress("resumed", "q", "_x6 90+15x6 stale _x200"),
    **_threshold("resumed", "q", "_x6 90x6 stale _x200"),
    **_end("resumed", "q", "_x12 181 stale _x200"),
    # stopped on host v, whose place host w has taken
    **_progress("moved", "v", "0+15x4 stale _x200"),
    **_threshold("moved", "v", "90x4 stale _x200"),
    **_scraped("v", "1x4 0x200", "0.01x4 10x200"),
    **_progress("moved", "w", "_x6 90+15x200"),
    **_threshold("moved", "w", "_x6 90x200"),
    # steps of half an hour
    **_progress("slow", "s", "0x119 1800x100"),
    **_threshold("slow", "s", "5400x220"),
    # evaluates, or saves a checkpoint: the process raises the threshold
    **_progress("evaluates", "ev", "0+15x8 120x200"),
    **_threshold("evaluates", "ev", "90x8 3600x200"),
    # one failed scrape, and one just now, that waited in vain
    **_progress("gap", "g", "0+15x20 stale 330+15x200"),
    **_threshold("gap", "g", "90x20 stale 90x200"),
    **_progress("gap-now", "gn", "0+15x39 stale _x200"),
    **_threshold("gap-now", "gn", "10x39 stale _x200"),
    **_scraped("gn", "1x39 0x200", "0.01x39 10x200"),
    # Prometheus was away, for longer than a run may be without a step
    **_progress("unwatched", "aw", "0+15x30 _x200"),
    **_threshold("unwatched", "aw", "90x30 _x200"),
    **_scraped("aw", "1x30 _x200", "0.01x30 _x200"),
}
"""Lives of runs: what the alerts about the process tell apart."""

RANKS: Final[dict[str, str]] = {
    # one rank of two is killed, whereupon the launcher ends the other with SIGTERM
    **_progress("rank-killed", "r0", "0+15x8 120 stale _x200"),
    **_end("rank-killed", "r0", "_x8 125 stale _x200", "interrupted"),
    **_progress("rank-killed", "r1", "0+15x8 stale _x200", rank="1"),
    **_threshold("rank-killed", "r1", "90x8 stale _x200", rank="1"),
    # one rank of two is killed, and the other hangs in a collective
    **_progress("collective", "c0", "0+15x8 120x200"),
    **_threshold("collective", "c0", "60x208"),
    **_progress("collective", "c1", "0+15x8 stale _x200", rank="1"),
    **_threshold("collective", "c1", "60x8 stale _x200", rank="1"),
    **_scraped("c1", "1x8 0x200", "0.01x8 0.001x200"),
    # one rank of two is killed, which is an error of a collective on the other
    **_progress("killed-then-failed", "kf0", "0+15x8 120 stale _x200"),
    **_end("killed-then-failed", "kf0", "_x8 125x5 stale _x200", "failed"),
    **_progress("killed-then-failed", "kf1", "0+15x8 stale _x200", rank="1"),
    # one of two fails, and the other is killed by the launcher a minute later
    **_progress("failed-then-killed", "fk0", "0+15x8 120 stale _x200"),
    **_end("failed-then-killed", "fk0", "_x8 125x5 stale _x200", "failed"),
    **_progress("failed-then-killed", "fk1", "0+15x8 120x10 stale _x200", rank="1"),
    # one of two hangs by itself; each in a pod of its own
    **_progress("one-hangs", 'l0",pod="p0', "0+15x8 120x200"),
    **_threshold("one-hangs", 'l0",pod="p0', "60x208"),
    **_open("one-hangs", "0", "reward", "_x9 16+15x200", "l0"),
    **_progress("one-hangs", 'l1",pod="p1', "0+15x8 120x200", rank="1"),
    **_threshold("one-hangs", 'l1",pod="p1', "75x208", rank="1"),
    **_open("one-hangs", "1", "reward", "_x9 15+15x200", "l1", "reward_function"),
    # one of two is stopped
    **_progress("one-stopped", "t0", "0+15x8 120x200"),
    **_threshold("one-stopped", "t0", "60x208"),
    **_open("one-stopped", "0", "backward", "_x9 15+15x200", "t0"),
    **_progress("one-stopped", "t1", "0+15x8 stale _x200", rank="1"),
    **_threshold("one-stopped", "t1", "60x8 stale _x200", rank="1"),
    **_scraped("t1", "1x8 0x200", "0.01x8 10x200"),
    # three hang in collective phases, of which one in another
    **_progress("differs", "d0", "0+15x8 120x200"),
    **_threshold("differs", "d0", "60x208"),
    **_open("differs", "0", "backward", "_x9 16+15x200", "d0"),
    **_open("differs", "1", "loss", "_x9 15+15x200", "d1"),
    **_open("differs", "2", "backward", "_x9 16+15x200", "d2"),
    # both are pre-empted
    **_progress("both", "b0", "0+15x8 120 stale _x200"),
    **_end("both", "b0", "_x8 125 stale _x200", "interrupted"),
    **_progress("both", "b1", "0+15x8 stale _x200", rank="1"),
    **_end("both", "b1", "_x8 126 stale _x200", "interrupted", rank="1"),
    # two ranks are killed, and the run goes on with one
    **_progress("shrunk", "s0", "0+15x4 stale _x200"),
    **_started("shrunk", "s0", "0x4 stale _x200"),
    **_progress("shrunk", "s1", "0+15x4 stale _x200", rank="1"),
    **_threshold("shrunk", "s1", "90x4 stale _x200", rank="1"),
    **_progress("shrunk", "s2", "_x9 135+15x200"),
    **_started("shrunk", "s2", "_x9 135x200"),
    **_threshold("shrunk", "s2", "_x9 90x200"),
}
"""Lives of runs of several ranks."""

_NO_ANSWER: Final = "does not answer: it is stopped, holds the interpreter's lock, or its node is lost"


def _stalled(observed: str, stacks: str) -> dict[str, str]:
    return {"observed": observed, "stacks": stacks}


def _file(rank: str) -> str:
    return f"stacks-rank{rank}.txt beside the journal"


OUTSIDE_CASES: Final[dict[str, list[Case]]] = {
    "NonFinite": [
        Case(
            "seen by the counter alone",
            {
                **_nonfinite("bad", "i1", "0x20 1x40", started="0x60"),
                # the first scrape already shows 1
                **_nonfinite("early", "i2", "_x34 1x30", started="_x34 500x30"),
                # an old total that comes back after Prometheus was away
                **_nonfinite("old", "i3", "_x34 7x60", started="_x34 -90000x60"),
                **_nonfinite("good", "i4", "0x90", started="0x90"),
            },
            ({"run_id": "bad", "rank": "0"}, {"run_id": "early", "rank": "0"}),
        )
    ],
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
    "RewardFunctionFailing": [
        Case(
            "raised; never raised",
            {
                **_series("rlhf_reward_function_errors_total", "bad", "0x20 1x60", reward_function="judge"),
                **_series("rlhf_reward_function_errors_total", "good", "0x80", reward_function="judge"),
            },
            ({"run_id": "bad", "reward_function": "judge"},),
        )
    ],
    "GPUThrottled": [
        Case(
            "hot; for a moment; a power cap",
            {
                **_series("rlhf_gpu_throttled", "bad", "0x10 1x60", device="0", reason="hw_thermal"),
                **_series("rlhf_gpu_throttled", "once", "0x30 1x4 0x60", device="0", reason="hw_thermal"),
                **_series("rlhf_gpu_throttled", "capped", "1x80", device="0", reason="power_cap"),
            },
            ({"run_id": "bad", "device": "0", "reason": "hw_thermal", "rank": "0", "instance": "i"},),
        )
    ],
    "GPUErrors": [
        Case(
            "an XID; a memory error; old memory errors",
            {
                **_series("rlhf_gpu_xid_total", "bad", "0x20 1x60", device="0"),
                **_series("rlhf_gpu_ecc_uncorrected_total", "worn", "3x20 4x60", device="1"),
                **_series("rlhf_gpu_ecc_uncorrected_total", "old", "3x80", device="0"),
            },
            ({"run_id": "bad", "device": "0", "rank": "0"}, {"run_id": "worn", "device": "1", "rank": "0"}),
        )
    ],
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
    "Straggler": [
        Case(
            "slow in a local phase; slow only in a collective one, which is waiting; nearly alike; one rank; one step",
            {
                **_phase("bad", "0", "reward_function", "0+1x80"),
                **_phase("bad", "0", "backward", "0+14x80"),
                **_phase("bad", "1", "reward_function", "0+8x80"),
                **_phase("bad", "1", "generate", "0+2x80"),
                **_phase("bad", "1", "backward", "0+1x80"),
                **_phase("waits", "0", "reward", "0+1x80"),
                **_phase("waits", "1", "reward", "0+14x80"),
                **_phase("alike", "0", "generate", "0+13x80"),
                **_phase("alike", "1", "generate", "0+13.5x80"),
                **_phase("single", "0", "generate", "0+13x80"),
                **_phase("once", "0", "generate", "0+5x80"),
                **_phase("once", "1", "generate", "0+5x50 265+5x30"),
            },
            ({"run_id": "bad", "rank": "1", "scope": "local"},),
            "15m",
            "rank 1 spends 0.23 s of each second more than the median rank in reward_function",
        ),
        Case(
            "three ranks, of which the first asks a vLLM server for all; three, of which the first samples slowly by itself",
            {
                **_phase("server", "0", "generate", "0+9x80", "generate"),
                **_phase("server", "0", "rollout", "0+1x80"),
                **_phase("server", "1", "rollout", "0+10x80"),
                **_phase("server", "2", "rollout", "0+10x80"),
                **{
                    series: values
                    for rank in "012"
                    for series, values in _phase("server", rank, "reward_function", "0+2x80").items()
                },
                **_phase("itself", "0", "generate", "0+9x80"),
                **_phase("itself", "1", "generate", "0+2x80"),
                **_phase("itself", "2", "generate", "0+2x80"),
            },
            ({"run_id": "itself", "rank": "0", "scope": "local"},),
            "15m",
            "rank 0 spends 0.47 s of each second more than the median rank in generate",
        ),
    ],
    "TelemetryFaults": [
        Case(
            "a fault; none",
            {
                **_faults("bad", "0x20 1x60"),
                **_faults("good", "0x80"),
            },
            ({"run_id": "bad", "place": "journal", "rank": "0"},),
        )
    ],
    "EngineDisagreement": [
        Case(
            "level without verdict; both; a warning, which has no verdict; non-finite; so on another rank",
            {
                **_collapsed("bad"),
                **_verdict("bad", "RewardCollapse", "0x80"),
                **_collapsed("good"),
                **_verdict("good", "RewardCollapse", "1x80"),
                'rlhf_signal_average{run_id="warning",signal="truncated_ratio",instance="i"}': "1x80",
                **_collapsed("nan"),
                **_verdict("nan", "RewardCollapse", "0x80"),
                **_verdict("nan", "NonFinite", "1x80"),
                **_nonfinite("other-rank", "i9", "0x25 1x60", started="0x90", rank="1"),
                **_verdict("other-rank", "NonFinite", "0x80"),
            },
            ({"run_id": "bad"},),
        )
    ],
    "TargetsMissing": [
        Case(
            "a target that does not answer; a rank that nobody registered; all there; one failed scrape",
            {
                'up{run_id="bad",rank="0",team="a",job="rlhf",instance="b0"}': "1x120",
                'up{run_id="bad",rank="1",team="a",job="rlhf",instance="b1"}': "0x120",
                **_series("rlhf_run_info", "few", "1x120", world_size="2"),
                **_progress("few", "f0", "0+15x120"),
                **_series("rlhf_run_info", "good", "1x120", world_size="2"),
                'up{run_id="good",rank="0",job="rlhf",instance="g0"}': "1x120",
                'up{run_id="good",rank="1",job="rlhf",instance="g1"}': "1x30 0 1x120",
                **_progress("good", "g0", "0+15x120"),
                **_progress("good", "g1", "0+15x30 stale 465+15x120", rank="1"),
            },
            ({"run_id": "bad", "team": "a"}, {"run_id": "few"}),
            facts={
                "bad": {"observed": "0 ranks are scraped", "team": "a"},
                "few": {"observed": "1 ranks are scraped"},
            },
        )
    ],
    "Drill": [
        Case(
            "a drill; one that is over",
            {
                'rlhf_anomaly_active{run_id="bad",rule="Drill",severity="critical",instance="b"}': "1x80",
                'rlhf_anomaly_active{run_id="good",rule="Drill",severity="critical",instance="g"}': "1x8 0x80",
            },
            ({"run_id": "bad", "severity": "critical"},),
        )
    ],
    "Watchdog": [Case("always", {}, ({},))],
}
