"""Series on which alerts with a given expression must fire, and on which they must stay silent.

Run ``bad`` and the like must fire, all others not. The alerts about the lives of runs have theirs in
``liveness_cases``.
"""

from __future__ import annotations

from typing import Final

from rlhf_otel.generate.case_series import (
    Case,
    collapsed,
    faults,
    nonfinite,
    phase_seconds,
    progress,
    series,
    verdict,
)
from rlhf_otel.generate.liveness_cases import LIVENESS_CASES

OUTSIDE_CASES: Final[dict[str, list[Case]]] = {
    **LIVENESS_CASES,
    "NonFinite": [
        Case(
            "seen by the counter alone",
            {
                **nonfinite("bad", "i1", "0x20 1x40", started="0x60"),
                # the first scrape already shows 1
                **nonfinite("early", "i2", "_x34 1x30", started="_x34 500x30"),
                # an old total that comes back after Prometheus was away
                **nonfinite("old", "i3", "_x34 7x60", started="_x34 -90000x60"),
                **nonfinite("good", "i4", "0x90", started="0x90"),
            },
            ({"run_id": "bad", "rank": "0"}, {"run_id": "early", "rank": "0"}),
        )
    ],
    "RewardFunctionFailing": [
        Case(
            "raised; never raised",
            {
                **series("rlhf_reward_function_errors_total", "bad", "0x20 1x60", reward_function="judge"),
                **series("rlhf_reward_function_errors_total", "good", "0x80", reward_function="judge"),
            },
            ({"run_id": "bad", "reward_function": "judge"},),
        )
    ],
    "GPUThrottled": [
        Case(
            "hot; for a moment; a power cap",
            {
                **series("rlhf_gpu_throttled", "bad", "0x10 1x60", device="0", reason="hw_thermal"),
                **series("rlhf_gpu_throttled", "once", "0x30 1x4 0x60", device="0", reason="hw_thermal"),
                **series("rlhf_gpu_throttled", "capped", "1x80", device="0", reason="power_cap"),
            },
            ({"run_id": "bad", "device": "0", "reason": "hw_thermal", "rank": "0", "instance": "i"},),
        )
    ],
    "GPUErrors": [
        Case(
            "an XID; a memory error; old memory errors",
            {
                **series("rlhf_gpu_xid_total", "bad", "0x20 1x60", device="0"),
                **series("rlhf_gpu_ecc_uncorrected_total", "worn", "3x20 4x60", device="1"),
                **series("rlhf_gpu_ecc_uncorrected_total", "old", "3x80", device="0"),
            },
            ({"run_id": "bad", "device": "0", "rank": "0"}, {"run_id": "worn", "device": "1", "rank": "0"}),
        )
    ],
    "Straggler": [
        Case(
            "slow in a local phase; slow only in a collective one, which is waiting; nearly alike; one rank; one step",
            {
                **phase_seconds("bad", "0", "reward_function", "0+1x80"),
                **phase_seconds("bad", "0", "backward", "0+14x80"),
                **phase_seconds("bad", "1", "reward_function", "0+8x80"),
                **phase_seconds("bad", "1", "generate", "0+2x80"),
                **phase_seconds("bad", "1", "backward", "0+1x80"),
                **phase_seconds("waits", "0", "reward", "0+1x80"),
                **phase_seconds("waits", "1", "reward", "0+14x80"),
                **phase_seconds("alike", "0", "generate", "0+13x80"),
                **phase_seconds("alike", "1", "generate", "0+13.5x80"),
                **phase_seconds("single", "0", "generate", "0+13x80"),
                **phase_seconds("once", "0", "generate", "0+5x80"),
                **phase_seconds("once", "1", "generate", "0+5x50 265+5x30"),
            },
            ({"run_id": "bad", "rank": "1", "scope": "local"},),
            "15m",
            "rank 1 spends 0.23 s of each second more than the median rank in reward_function",
        ),
        Case(
            "three ranks, of which the first asks a vLLM server for all; three, of which the first samples slowly by itself",
            {
                **phase_seconds("server", "0", "generate", "0+9x80", "generate"),
                **phase_seconds("server", "0", "rollout", "0+1x80"),
                **phase_seconds("server", "1", "rollout", "0+10x80"),
                **phase_seconds("server", "2", "rollout", "0+10x80"),
                **{
                    series: values
                    for rank in "012"
                    for series, values in phase_seconds("server", rank, "reward_function", "0+2x80").items()
                },
                **phase_seconds("itself", "0", "generate", "0+9x80"),
                **phase_seconds("itself", "1", "generate", "0+2x80"),
                **phase_seconds("itself", "2", "generate", "0+2x80"),
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
                **faults("bad", "0x20 1x60"),
                **faults("good", "0x80"),
            },
            ({"run_id": "bad", "place": "journal", "rank": "0"},),
        )
    ],
    "EngineDisagreement": [
        Case(
            "level without verdict; both; a warning, which has no verdict; non-finite; so on another rank",
            {
                **collapsed("bad"),
                **verdict("bad", "RewardCollapse", "0x80"),
                **collapsed("good"),
                **verdict("good", "RewardCollapse", "1x80"),
                'rlhf_signal_average{run_id="warning",signal="truncated_ratio",instance="i"}': "1x80",
                **collapsed("nan"),
                **verdict("nan", "RewardCollapse", "0x80"),
                **verdict("nan", "NonFinite", "1x80"),
                **nonfinite("other-rank", "i9", "0x25 1x60", started="0x90", rank="1"),
                **verdict("other-rank", "NonFinite", "0x80"),
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
                **series("rlhf_run_info", "few", "1x120", world_size="2"),
                **progress("few", "f0", "0+15x120"),
                **series("rlhf_run_info", "good", "1x120", world_size="2"),
                'up{run_id="good",rank="0",job="rlhf",instance="g0"}': "1x120",
                'up{run_id="good",rank="1",job="rlhf",instance="g1"}': "1x30 0 1x120",
                **progress("good", "g0", "0+15x120"),
                **progress("good", "g1", "0+15x30 stale 465+15x120", rank="1"),
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
