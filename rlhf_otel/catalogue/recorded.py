"""Recorded series: what boards ask for often, computed once by Prometheus (``alerts/rlhf.recording.yaml``).

``$range`` stands for 20 scrape intervals (5 minutes at 15 s), as in the alerting rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from rlhf_otel.catalogue.run_boards import with_board


class RunState(IntEnum):
    """Values of ``run:rlhf_state:current``."""

    RUNNING = 1
    FINISHED = 2
    INTERRUPTED = 3
    STALLED = 4
    GONE = 5
    FAILED = 6


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recording rule; its labels are ``job`` and ``run_id`` and those named here."""

    name: str
    help: str
    expression: str
    labels: tuple[str, ...] = ()
    unit: str = "1"


def _events(level: str, counter: str, label: str, what: str) -> Recorded:
    """Events of all ranks within ``$range``, by one label."""
    return Recorded(
        f"{level}:rlhf_{counter}:increase",
        f"{what}, of all ranks, in the 5 minutes before.",
        f"sum by (job, run_id, {label}) (increase(rlhf_{counter}_total[$range]))",
        (label,),
    )


def _ended(outcome: str, state: RunState) -> str:
    return (
        f'0 * (max by (job, run_id) (last_over_time(rlhf_run_end_timestamp_seconds{{outcome="{outcome}"}}[15m]))\n'
        "    >= max by (job, run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[15m])))"
        f" + {state.value}"
    )


def _alert(name: str, state: RunState) -> str:
    """The alert, of all ranks together, says nothing of the job."""
    return (
        "0 * max by (job, run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[2h])\n"
        f'    and on (run_id) ALERTS{{alertname="{name}", alertstate="firing"}}) + {state.value}'
    )


_STATE: Final = "\n  or\n".join(
    (
        _ended("failed", RunState.FAILED),
        _alert("RLHFRunGone", RunState.GONE),
        _ended("interrupted", RunState.INTERRUPTED),
        _ended("finished", RunState.FINISHED),
        _alert("RLHFRunStalled", RunState.STALLED),
        f"0 * max by (job, run_id) (rlhf_last_progress_timestamp_seconds) + {RunState.RUNNING.value}",
    )
)
"""The first that holds. A run that was resumed has progressed after its end, and is running."""

SEES_A_GPU: Final = ("rlhf_gpu_memory_total_bytes", "rlhf_torch_memory_reserved_bytes")
"""Series that a rank with a GPU has: by NVML, or where that is missing by torch."""

BOARD_OF_RUN: Final = "run:rlhf_board:info"

RECORDED: Final = (
    Recorded(
        "run:rlhf_state:current",
        "State of a run: "
        + ", ".join(f"{state.value} {state.name.lower()}" for state in RunState)
        + ". An end is told for 15 minutes, a lost process for 2 hours.",
        _STATE,
    ),
    Recorded(
        BOARD_OF_RUN,
        "Constant 1; the label board is the uid of the board for the run's trainer, which pages link to.",
        "max by (job, run_id, board) (" + with_board('rlhf_run_info{rank="0"}') + ")",
        ("board",),
    ),
    Recorded(
        "run:rlhf_ranks:count",
        "Processes of a run that are scraped.",
        "count by (job, run_id) (rlhf_process_start_time_seconds)",
    ),
    Recorded(
        "run:rlhf_rank_seconds:sum",
        "Time that a run's processes have been up in this attempt, summed over ranks.",
        "sum by (job, run_id) (time() - rlhf_process_start_time_seconds)",
        unit="seconds",
    ),
    Recorded(
        "run_phase:rlhf_phase_seconds:avg_rate",
        "Share of wall time in each phase, mean over ranks.",
        "avg by (job, run_id, phase, scope) (rate(rlhf_phase_seconds_total[$range]))",
        ("phase", "scope"),
        "ratio",
    ),
    Recorded(
        "run_rank:rlhf_local_phase_seconds:rate",
        "Share of wall time that a rank spends in phases which wait for no other rank.",
        'sum by (job, run_id, rank) (rate(rlhf_phase_seconds_total{scope="local"}[$range]))',
        ("rank",),
        "ratio",
    ),
    Recorded(
        "run_function:rlhf_reward_function_seconds:avg_rate",
        "Seconds in each reward function in a second of wall time, mean over ranks.",
        "avg by (job, run_id, reward_function) (rate(rlhf_reward_function_seconds_total[$range]))",
        ("reward_function",),
        "seconds",
    ),
    _events("run_function", "reward_function_nonfinite", "reward_function", "Rewards that were not finite"),
    _events("run_signal", "signal_nonfinite", "signal", "Values of each signal that were not finite"),
    _events("run_place", "telemetry_faults", "place", "Telemetry faults by place"),
    Recorded(
        "run_rank:rlhf_telemetry_seconds:rate",
        "Share of a rank's training thread that telemetry takes.",
        "sum by (job, run_id, rank) (rate(rlhf_telemetry_seconds_total[$range]))",
        ("rank",),
        "ratio",
    ),
    Recorded(
        "run_rank:rlhf_process_cpu_seconds:rate",
        "Processor time of a rank's process, in cores.",
        "sum by (job, run_id, rank) (rate(rlhf_process_cpu_seconds_total[$range]))",
        ("rank",),
    ),
)

RECORDED_BY_NAME: Final = {recorded.name: recorded for recorded in RECORDED}
