"""Async trainers: rollouts are made beside the training loop, by a policy that is some steps old."""

from __future__ import annotations

from typing import Final

from rlhf_otel.sources.trl_keys.distillation import DISTILLATION
from rlhf_otel.sources.trl_keys.group_policy import GRPO

_PIPELINE: Final[dict[str, str]] = {
    "sample/staleness_mean": "staleness",
    "sample/staleness_max": "staleness_max",
    "sample/dropped_stale_total": "stale_samples_dropped",
    "sample/rollout_queue_size": "rollout_queue",
    "sample/time_in_queue_s": "rollout_queue_time",
    "perf/rollout_wait_s": "rollout_wait",
    "perf/weight_sync_s": "weight_sync_time",
    "perf/mfu_wall_clock": "model_flops_utilization",
    "rollout/backpressure_s": "rollout_backpressure",
    "rollout/vllm_retry_total": "sampler_retries",
    "rollout/inflight": "rollouts_in_flight",
    "rollout/score_s": "rollout_scoring_time",
}

ASYNC_GRPO: Final[dict[str, str]] = {
    **GRPO,
    **_PIPELINE,
    "kl": "kl_to_sampler",
    "ratio": "ratio_to_sampler",
}
"""``kl`` compares the policy with the one that sampled, not with a reference."""

ASYNC_DISTILLATION: Final[dict[str, str]] = {**DISTILLATION, **_PIPELINE}

ASYNC_PASSED: Final[tuple[str, ...]] = (
    "batch/*",
    "perf/forwarded_tok_s_*",
    "perf/fwd_bwd_s",
    "perf/fwd_s",
    "perf/mfu_fwd_bwd",
    "perf/optimizer_s",
    "perf/step_s",
    "perf/trained_tok_s_wall_clock",
    "perf/weight_sync_*_s",
    "rollout/*",
    "sample/forwarded_tokens_*",
    "sample/trained_tokens_mean",
    "teacher_entropy/*",
    "teacher_jsd/*",
    "teacher_token_frac/*",
)
"""How batches are packed, parts of times, and what is told for each of several teachers."""
