"""The runs that detectors are judged on: peers' scenario generators, real runs with injected faults, public logs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from injected_faults import EXPECTED

from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.demo.rewards import REWARD_WEIGHTS
from rlhf_otel.detection.derived import add_derived, add_evaluation_gap
from rlhf_otel.records import RunEnd, StepRecord
from rlhf_otel.replay.opening import open_log
from rlhf_otel.sources.groups import Generation, advantage_deviation, lowest_correlation, weighted_rewards
from rlhf_otel.sources.memory_growth import StepGrowth
from rlhf_otel.sources.samples import Samples
from rlhf_otel.sources.trl_logs import map_logs

HEALTHY: Final = "healthy"
CORPUS: Final = Path(__file__).resolve().parents[2] / "shared" / "corpus"
SYNTHETIC_STEP_S: Final = 15.0


@dataclass
class Case:
    """One run."""

    suite: str
    scenario: str
    seed: int
    records: list[StepRecord]
    faulty: bool
    onset: int = 0
    """Step at which what is wrong begins."""
    expected: tuple[str, ...] = ()
    """Rules that name it rightly."""
    abrupt: bool = False
    name_known: bool = True
    native: Any = field(default=None, repr=False)
    """What the peer whose scenario it is reads: log dicts, or a RunView."""
    config: dict[str, Any] = field(default_factory=dict)
    end: RunEnd | None = None
    stall_s: float = math.inf
    """Duration from which on a step counts as a stall."""
    borderline: bool = False


_ENTROPY: Final = ("EntropyDecline", "EntropyDrift", "EntropyFalling", "EntropyCollapse")
RL_DOCTOR: Final[dict[str, tuple[str, ...]]] = {
    "entropy_collapse": _ENTROPY,
    "saturated_groups": ("ZeroAdvantageGroups", "ZeroAdvantageRising", "NoAdvantage"),
    "too_hard": ("ZeroAdvantageGroups", "ZeroAdvantageRising", "NoAdvantage"),
    "reward_hacking": ("RewardHackingSuspected",),
    "length_hacking": ("CompletionLengthGrowth", "CompletionLengthExplosion", "RewardHackingSuspected"),
    # Completions that grow towards the limit; rl-doctor too calls it a pathology of length.
    "truncation": (
        "CompletionLengthGrowth",
        "CompletionLengthExplosion",
        "TruncationHigh",
        "TruncationJump",
        "TruncationRising",
    ),
    "kl_blowup": ("KLRunaway", "KLSpike", "KLDrift"),
    "clip_saturation": ("ClipFractionHigh", *_ENTROPY),
    "grad_spikes": ("GradientNormSpike",),
    "plateau": ("RewardPlateau",),
    "format_domination": ("RewardFunctionDominates",),
}
RLPROBE: Final[dict[str, tuple[str, ...]]] = {
    "kl_blowup": ("KLRunaway", "KLSpike", "KLDrift"),
    "entropy_collapse": _ENTROPY,
    "reward_hack_length": ("CompletionLengthGrowth", "CompletionLengthExplosion", "RewardHackingSuspected"),
    "format_gaming": ("RewardMixChanging", "RewardFunctionDominates"),
    "clip_saturation": ("ClipFractionHigh",),
    "degenerate_groups": ("ZeroAdvantageGroups", "ZeroAdvantageRising", "NoAdvantage"),
    "adv_collapse": ("AdvantageCollapse", "ZeroAdvantageGroups"),
    "value_divergence": ("ValueDivergence",),
    "grad_pathology": ("NonFinite", "GradientNormSpike"),
    "truncation_starve": ("TruncationHigh", "TruncationJump", "TruncationRising"),
    "repetition_spiral": ("RepetitionRising", "RepetitionHigh", *_ENTROPY),
    "reward_std_death": ("ZeroAdvantageGroups", "ZeroAdvantageRising", "NoAdvantage", "RewardSpreadCollapse"),
    "ref_drift_asymmetry": ("KLRunaway", "KLSpike", "KLDrift"),
    "throughput_rot": ("ThroughputRegression", "StepTimeDrift", "THROUGHPUT_ROT"),
}


def rl_doctor_cases(seeds: int) -> Iterator[Case]:
    """rl-doctor's simulator; its curves have their fault from the first step."""
    from rl_doctor.simulate import SCENARIOS, simulate

    for scenario in SCENARIOS:
        for seed in range(seeds if scenario != HEALTHY else max(seeds, 2 * seeds)):
            rows, config = simulate(scenario, seed=seed)
            records = [_record(int(row["step"]) + 1, row) for row in rows]
            evaluated: float | None = None
            for record in records:
                evaluated = record.values.get("evaluation_reward", evaluated)
                add_evaluation_gap(record.values, evaluated)
            expected = RL_DOCTOR.get(scenario, ())
            yield Case(
                "rl-doctor",
                scenario,
                seed,
                records,
                scenario != HEALTHY,
                1,
                expected,
                native=rows,
                config=config,
            )


def _record(step: int, row: dict[str, Any]) -> StepRecord:
    """A row of TRL's keys, with what rl-doctor calls throughput."""
    mapped = map_logs(row)
    record = _plain(step, mapped.values, mapped.reward_functions)
    if "perf/throughput" in row:
        record.values["tokens_per_second"] = row["perf/throughput"]
    if "eval/accuracy" in row:
        record.values["evaluation_reward"] = row["eval/accuracy"]
    if "frac_reward_zero_std" in row:
        record.values["zero_advantage_groups"] = row["frac_reward_zero_std"]
    return record


def _plain(step: int, values: dict[str, float], functions: dict[str, tuple[float, float]]) -> StepRecord:
    time_ns = int(step * SYNTHETIC_STEP_S * 1e9)
    record = StepRecord(step, 0.0, StepKind.GENERATE, time_ns, time_ns, time_ns, values, functions)
    add_derived(record)
    return record


OF_RLPROBE: Final = {
    "reward_mean": "reward", "reward_std": "reward_std", "kl_mean": "kl_per_token", "entropy_mean": "entropy",
    "clip_fraction": "clip_region_ratio", "zero_variance_group_frac": "zero_advantage_groups", "loss": "loss",
    "lr": "learning_rate", "grad_norm": "grad_norm", "completion_len_mean": "completion_length",
    "completion_len_max": "completion_length_max", "truncation_rate": "truncated_ratio", "step_time_s": "step_duration",
    "value_loss": "value_loss", "value_explained_variance": "value_explained_variance",
    "value_clip_fraction": "value_clip_fraction", "adv_std": "advantage_std", "repetition_rate": "repetition_ratio",
}  # fmt: skip


def rlprobe_cases(seeds: int) -> Iterator[Case]:
    """rlprobe's generator; the fault begins at half of the run."""
    from rlprobe.doctor.runview import RunView
    from rlprobe.testing.synth import PATHOLOGIES, generate_run

    for scenario in (HEALTHY, *PATHOLOGIES):
        for seed in range(seeds if scenario != HEALTHY else 2 * seeds):
            with TemporaryDirectory() as scratch:
                path = generate_run(
                    Path(scratch) / "run", None if scenario == HEALTHY else scenario, seed=seed
                )
                view = RunView.load(path)
                list(view.samples)
            samples = list(view.samples) if view._samples_provider is None else []
            records = [_of_rlprobe(row) for row in view._records]
            expected = RLPROBE.get(scenario, ())
            view._samples_provider = None if not samples else lambda found=samples: found  # type: ignore[misc]
            yield Case("rlprobe", scenario, seed, records, scenario != HEALTHY, 251, expected, native=view)


def _of_rlprobe(row: Any) -> StepRecord:
    values = {
        ours: float(value)
        for theirs, ours in OF_RLPROBE.items()
        if (value := getattr(row, theirs)) is not None
    }
    tokens = row.completion_len_mean / row.step_time_s
    values["tokens_per_second"] = tokens
    record = _plain(
        row.step + 1, values, {name: (mean, math.nan) for name, mean in row.reward_components.items()}
    )
    if row.nan_count:
        record.nonfinite["grad_norm"] = row.nan_count
    return record


def real_cases(cache: Path) -> Iterator[Case]:
    """Journals of ``injected_runs.py``, and others beside them without a label, which are healthy."""
    for directory in sorted(path.parent for path in cache.glob("*/journal-00000.jsonl")):
        label_path = directory / "label.json"
        label = json.loads(label_path.read_text()) if label_path.exists() else {"fault": HEALTHY, "seed": 0}
        log = open_log(directory)
        records = list(log.records)
        add_sampled(records, directory / "samples.jsonl")
        for record in records:
            add_derived(record)
        fault = label["fault"]
        failed = log.end is not None and log.end.outcome is Outcome.FAILED
        if (
            len(records) < 30
            or (failed and fault == HEALTHY)
            or (log.end is None and label["fault"] == HEALTHY)
        ):
            continue  # still being made
        expected = EXPECTED.get(fault)  # none of a rare one, which is evidence for rules alone
        yield Case(
            "real runs", fault, label.get("seed", 0), records, fault != HEALTHY, label.get("step") or 0,
            expected.names if expected else (), bool(expected and expected.abrupt), config={"variant": label.get("variant", "")},
            end=log.end if log.end and log.end.outcome is Outcome.FAILED else None, stall_s=15.0,
        )  # fmt: skip


def add_sampled(records: list[StepRecord], path: Path) -> None:
    """Signals that follow from what a run sampled, for journals that were written before there was the signal."""
    if not path.exists():
        return
    by_step = {record.step: record for record in records}
    growth, samples = StepGrowth(), Samples()
    for line in path.open(encoding="utf-8"):
        row = json.loads(line)
        if (record := by_step.get(row["step"])) is None:
            continue
        found: dict[str, float | None] = {
            "process_memory_growth": growth.add(row["step"], row["resident"] - row["shared"])
        }
        columns = list(row.get("rewards", {}).values())
        if columns and row.get("group", 0) > 1 and "reward" in record.values:
            weights = REWARD_WEIGHTS[: len(columns)]
            generation = Generation(columns, weights, row["group"], list(row["rewards"]), row["completions"])
            rewards = weighted_rewards(generation)
            found |= samples.signals(generation, record.values)
            found["advantage_std"] = advantage_deviation(rewards, row["group"])
            found["reward_function_correlation"] = lowest_correlation(columns)
        for name, value in found.items():
            if value is not None:
                record.values.setdefault(name, value)


def corpus_cases(corpus: Path) -> Iterator[Case]:
    """Public logs; their labels are a person's reading of the curves."""
    for label in json.loads((corpus / "labels.json").read_text()):
        records = list(open_log(corpus / label["file"]).records)
        onset = re.match(r"\d+", label["onset"])
        yield Case(
            "public logs", label["label"], 0, records, label["label"] == "failed", int(onset[0]) if onset else 0,
            name_known=False, borderline=label["label"] == "borderline", config={"file": label["file"]},
        )  # fmt: skip
