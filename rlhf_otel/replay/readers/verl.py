"""verl's file logger (``trainer.logger=["file"]``): JSON Lines of ``{"step": ..., "data": {...}}``.

verl's words differ from TRL's; they are mapped by meaning. What has no counterpart passes through unmapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rlhf_otel.replay.readers.tables import json_objects
from rlhf_otel.replay.rows import Row
from rlhf_otel.sources.trl_logs import MappedLogs, as_number

FORMAT: Final = "verl"

SIGNAL_OF_KEY: Final[dict[str, str]] = {
    "actor/loss": "loss",
    "actor/pg_loss": "policy_loss",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/entropy": "entropy",
    "actor/entropy_loss": "entropy",
    "actor/kl_loss": "kl_per_token",  # mean over tokens of the divergence from the reference
    "actor/reward_kl_penalty": "kl_per_token",
    "actor/pg_clipfrac": "clip_region_ratio",
    "critic/rewards/mean": "reward",
    "response_length/mean": "completion_length",
    "response_length/min": "completion_length_min",
    "response_length/max": "completion_length_max",
    "response_length/clip_ratio": "truncated_ratio",
    "timing_s/step": "step_duration",
    "training/epoch": "epoch",
}
"""``actor/ppo_kl`` compares consecutive policies, ``critic/score`` leaves the KL penalty out: other things."""


def vocabulary(values: Mapping[str, Any]) -> MappedLogs:
    """The meaning of verl's keys."""
    mapped = MappedLogs()
    for key, raw in values.items():
        value = as_number(raw)
        if value is None:
            continue
        if key in SIGNAL_OF_KEY:
            mapped.values[SIGNAL_OF_KEY[key]] = value
        elif not key.startswith("val"):
            mapped.unmapped[key] = value
    _add_throughput(mapped.values, mapped.unmapped)
    return mapped


def _add_throughput(values: dict[str, float], unmapped: Mapping[str, float]) -> None:
    """``perf/throughput`` is per GPU; the signal is of all ranks."""
    tokens, duration = unmapped.get("perf/total_num_tokens"), values.get("step_duration", 0.0)
    if tokens is not None and duration > 0:
        values["tokens_per_second"] = tokens / duration


def rows(lines: Iterable[bytes], path: Path) -> Iterator[Row]:
    """Rows of the file; it has durations, but no times."""
    for found in json_objects(lines, path):
        data, step = found.get("data"), as_number(found.get("step"))
        if isinstance(data, dict):
            yield Row(None if step is None else int(step), None, data)
