"""The detectors that are compared: each turns a run into alarms, as it would have raised them while the run went on."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from detection_cases import OF_RLPROBE, Case

from rlhf_otel.replay.engine import Replay

CHECK_EVERY: Final = 25
"""rl-doctor's own interval of live checks; rlprobe, which polls a directory, is asked as often."""


TRL_KEYS: Final = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "kl_per_token": "kl",
    "entropy": "entropy",
    "clip_low_ratio": "clip_ratio/low_mean",
    "clip_high_ratio": "clip_ratio/high_mean",
    "clip_region_ratio": "clip_ratio/region_mean",
    "reward": "reward",
    "reward_std": "reward_std",
    "reward_zero_std_ratio": "frac_reward_zero_std",
    "completion_length": "completions/mean_length",
    "completion_length_max": "completions/max_length",
    "truncated_ratio": "completions/clipped_ratio",
    "trainer_step_time": "step_time",
}
"""What peers know of TRL's keys."""


class Alarm(NamedTuple):
    """Something that a detector said."""

    step: int
    name: str
    severity: str
    """``critical``, ``warning`` or ``info``."""


def ours(case: Case) -> list[Alarm]:
    """rlhf_otel's baselines and rules. A run that raised or stood still is told by the rules about processes."""
    replay = Replay()
    alarms: list[Alarm] = []
    for record in case.records:
        if record.values.get("step_duration", 0.0) > case.stall_s:
            alarms.append(Alarm(record.step, "RunStalled", "critical"))
        alarms += [Alarm(a.anomaly.step, a.rule, a.anomaly.severity.value) for a in replay.observe(record)]
    if case.end is not None:
        alarms.append(
            Alarm(case.end.step + 1, "RunFailed", "critical")
        )  # in the step after the last whole one
    return alarms


def _trl_rows(case: Case) -> Iterator[dict[str, Any]]:
    """A run in TRL's spelling."""
    for record in case.records:
        row: dict[str, Any] = {
            TRL_KEYS[name]: value for name, value in record.values.items() if name in TRL_KEYS
        }
        for name, (mean, deviation) in record.reward_functions.items():
            row[f"rewards/{name}/mean"], row[f"rewards/{name}/std"] = mean, deviation
        if "evaluation_reward" in record.values:
            row["eval/accuracy"] = record.values["evaluation_reward"]
        row["step"] = record.step
        yield row


def rl_doctor(case: Case) -> list[Alarm]:
    """rl-doctor's live monitor with its defaults."""
    from rl_doctor.live import LiveMonitor

    logging.getLogger("rl-doctor").setLevel(logging.CRITICAL)
    config = {key: value for key, value in case.config.items() if key not in ("variant", "file")}
    monitor = LiveMonitor(config=config, check_every=CHECK_EVERY, on_finding=lambda finding: None)
    alarms = []
    rows = case.native if case.suite == "rl-doctor" else list(_trl_rows(case))
    for record, row in zip(case.records, rows, strict=True):
        for finding in monitor.log(row, step=row["step"]):
            alarms.append(Alarm(record.step, finding.detector, finding.severity.name.lower()))
    return alarms


def rlprobe(case: Case) -> list[Alarm]:
    """rlprobe's doctor on what has been recorded so far, every so many steps."""
    from rlprobe.doctor.engine import diagnose_view
    from rlprobe.doctor.runview import RunView
    from rlprobe.schemas import RunManifest

    rows = (
        case.native._records if case.suite == "rlprobe" else [_rlprobe_row(record) for record in case.records]
    )
    manifest = (
        case.native.manifest
        if case.suite == "rlprobe"
        else RunManifest(run_id="r", created_at="", algorithm="grpo", trainer_config={"group_size": 8})
    )
    alarms, seen = [], set()
    for end in range(CHECK_EVERY, len(rows) + 1, CHECK_EVERY):
        for finding in diagnose_view(RunView(manifest, rows[:end])):
            if (finding.signature_id, finding.severity) not in seen:
                seen.add((finding.signature_id, finding.severity))
                severity = {"warn": "warning"}.get(finding.severity, finding.severity)
                alarms.append(Alarm(case.records[end - 1].step, finding.signature_id, severity))
    return alarms


def _rlprobe_row(record: Any) -> Any:
    from rlprobe.schemas import StepRecord

    values = {
        theirs: record.values[ours]
        for theirs, ours in OF_RLPROBE.items()
        if ours in record.values and math.isfinite(record.values[ours])
    }
    parts = {name: mean for name, (mean, _) in record.reward_functions.items() if math.isfinite(mean)}
    return StepRecord(
        step=record.step, reward_components=parts, nan_count=sum(record.nonfinite.values()), **values
    )


def rlwatch(case: Case) -> list[Alarm]:
    """rlwatch's detectors with its defaults, without its cool-down."""
    from rlwatch.config import RLWatchConfig
    from rlwatch.detectors import DetectorSuite

    suite = DetectorSuite(RLWatchConfig())
    names = {
        "entropy": "entropy", "kl_divergence": "kl_per_token", "reward_mean": "reward", "reward_std": "reward_std",
        "loss": "loss", "grad_norm": "grad_norm", "advantage_std": "advantage_std",
    }  # fmt: skip
    alarms = []
    for record in case.records:
        values = {theirs: record.values.get(mine) for theirs, mine in names.items()}
        for alert in suite.check_step(record.step, **values):
            alarms.append(Alarm(record.step, alert.detector, alert.severity))
    return alarms


TOOLS: Final[dict[str, Callable[[Case], list[Alarm]]]] = {
    "rlhf_otel": ours,
    "rl-doctor": rl_doctor,
    "rlprobe": rlprobe,
    "rlwatch": rlwatch,
}
PACKAGES: Final = {"rl-doctor": "rl_doctor", "rlprobe": "rlprobe", "rlwatch": "rlwatch"}
