"""What a promtool test of an alert consists of, and the series of made-up runs.

Values are in promtool's notation at one sample per scrape of 15 s; the labels are the arguments'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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


def progress(run: str, instance: str, values: str, rank: str = "0") -> dict[str, str]:
    return {
        f'rlhf_last_progress_timestamp_seconds{{run_id="{run}",rank="{rank}",instance="{instance}"}}': values
    }


def threshold(run: str, instance: str, values: str, rank: str = "0") -> dict[str, str]:
    return {f'rlhf_stall_threshold_seconds{{run_id="{run}",rank="{rank}",instance="{instance}"}}': values}


def process_start(run: str, instance: str, values: str) -> dict[str, str]:
    return {f'rlhf_process_start_time_seconds{{run_id="{run}",rank="0",instance="{instance}"}}': values}


def end(run: str, instance: str, values: str, outcome: str = "finished", rank: str = "0") -> dict[str, str]:
    labels = f'run_id="{run}",outcome="{outcome}",rank="{rank}",instance="{instance}"'
    return {f"rlhf_run_end_timestamp_seconds{{{labels}}}": values}


def nonfinite(run: str, instance: str, values: str, started: str, rank: str = "0") -> dict[str, str]:
    labels = f'run_id="{run}",rank="{rank}",instance="{instance}"'
    return {
        f'rlhf_signal_nonfinite_total{{{labels},signal="loss"}}': values,
        f"rlhf_process_start_time_seconds{{{labels}}}": started,
    }


def phase_seconds(run: str, rank: str, phase: str, values: str, collective: str = "") -> dict[str, str]:
    scope = PHASE_BY_NAME[phase].scope_in(collective)
    labels = f'run_id="{run}",rank="{rank}",phase="{phase}",scope="{scope}",instance="{rank}"'
    return {f"rlhf_phase_seconds_total{{{labels}}}": values}


def series(metric: str, run: str, values: str, **labels: str) -> dict[str, str]:
    text = "".join(f',{name}="{value}"' for name, value in labels.items())
    return {f'{metric}{{run_id="{run}"{text},rank="0",instance="i"}}': values}


def faults(run: str, values: str) -> dict[str, str]:
    labels = f'run_id="{run}",place="journal",rank="0",instance="i"'
    return {f"rlhf_telemetry_faults_total{{{labels}}}": values}


def collapsed(run: str) -> dict[str, str]:
    return {
        f'rlhf_signal_shift{{run_id="{run}",signal="reward",instance="i"}}': "-10x80",
        f'rlhf_signal_zscore{{run_id="{run}",signal="reward",instance="i"}}': "-5x80",
        f'rlhf_rule_breach_steps{{run_id="{run}",rule="RewardCollapse",instance="i"}}': "10+1x80",
    }


def verdict(run: str, rule: str, values: str) -> dict[str, str]:
    labels = f'run_id="{run}",rule="{rule}",severity="critical",instance="i"'
    return {f"rlhf_anomaly_active{{{labels}}}": values}


def scraped(instance: str, up: str, seconds: str) -> dict[str, str]:
    """What Prometheus says of a target: whether its scrapes succeed, and how long they take."""
    return {
        f'up{{instance="{instance}"}}': up,
        f'scrape_duration_seconds{{instance="{instance}"}}': seconds,
    }


def open_phase(
    run: str, rank: str, phase: str, values: str, instance: str, charged: str = ""
) -> dict[str, str]:
    """The phase that a rank is in, and the total that its time is ``charged`` to, by default of the same name."""
    labels = f'run_id="{run}",rank="{rank}",phase="{phase}",instance="{instance}"'
    return {
        f"rlhf_open_phase_seconds{{{labels}}}": values,
        **phase_seconds(run, rank, charged or phase, "0+15x200"),
    }


def usual(run: str, values: str) -> dict[str, str]:
    return {f'rlhf_signal_baseline{{run_id="{run}",signal="step_duration",instance="i"}}': values}
