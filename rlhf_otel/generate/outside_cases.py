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


def _ended(outcome: str, others: tuple[str, str]) -> list[Case]:
    """Runs of which ``bad`` ended so, others otherwise, and one was resumed since."""
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
    labels = {"run_id": "bad", "outcome": outcome, "rank": "0"}
    return [Case(f"{outcome}; ended otherwise; {outcome} and then resumed", series, (labels,))]


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


LIFE: Final[dict[str, str]] = {
    # hangs with the endpoint alive
    **_progress("hang", "h", "0+15x8 120x200"),
    **_threshold("hang", "h", "90x208"),
    # killed, or holding the GIL: scrapes fail
    **_progress("kill", "k", "0+15x8 stale _x200"),
    **_threshold("kill", "k", "90x8 stale _x200"),
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
    # steps of half an hour
    **_progress("slow", "s", "0x119 1800x100"),
    **_threshold("slow", "s", "5400x220"),
    # one failed scrape
    **_progress("gap", "g", "0+15x20 stale 330+15x200"),
    **_threshold("gap", "g", "90x20 stale 90x200"),
}
"""Lives of runs: what the alerts about the process tell apart."""

RANKS: Final[dict[str, str]] = {
    # one rank of two is killed, whereupon the launcher ends the other with SIGTERM
    **_progress("rank-killed", "r0", "0+15x8 120 stale _x200"),
    **_end("rank-killed", "r0", "_x8 125 stale _x200", "interrupted"),
    **_progress("rank-killed", "r1", "0+15x8 stale _x200", rank="1"),
    **_threshold("rank-killed", "r1", "90x8 stale _x200", rank="1"),
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
"""Lives of runs of two ranks."""

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
    "RunFailed": _ended("failed", ("finished", "interrupted")),
    "RunInterrupted": _ended("interrupted", ("finished", "failed")),
    "RunFinished": _ended("finished", ("failed", "interrupted")),
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
        Case("lives", LIFE, ({"run_id": "hang", "rank": "0"}, {"run_id": "kill", "rank": "0"})),
        Case("lives of two ranks", RANKS, ()),
    ],
    "RunGone": [
        Case("lives", LIFE, ({"run_id": "kill"},), observed="gone: rank 0 "),
        Case("lives of two ranks", RANKS, ({"run_id": "rank-killed"},), observed="gone: rank 1 "),
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
