"""Signals: the canonical quantities of a training step, and how each is exposed.

The host's spelling of a quantity is not here (that is ``sources/trl_logs.py``): the same word can mean
different things in two trainers, and one quantity has had many names over TRL's versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Signal:
    """A scalar quantity of one training step.

    ``resolution`` and ``relative_resolution`` bound from below the scale against which deviations are
    judged, ``max(estimated scale, resolution, relative_resolution * |baseline|)``: a quantity that hardly
    moves (a group-normalised loss of 1e-8, a clip ratio of exactly 0) must not turn rounding into an anomaly.
    """

    name: str
    metric: str
    unit: str
    help: str
    baseline: bool = False
    """Whether streaming statistics are kept and exported."""
    watch_nonfinite: bool = False
    """Whether NaN or infinity is a failure, rather than "not measured this time"."""
    momentary: bool = False
    """Whether it is absent as soon as a step lacks it, rather than showing its latest value."""
    resolution: float = 0.0
    relative_resolution: float = 0.1


SIGNALS: Final[tuple[Signal, ...]] = (
    # Optimisation
    Signal(
        "loss",
        "rlhf_loss",
        "1",
        "Training loss of the step, summed over micro-batches as the optimizer sees it. With group-normalised "
        "advantages and one update per generation it is close to 0 by construction.",
        baseline=True,
        watch_nonfinite=True,
        resolution=0.05,
        relative_resolution=0.5,
    ),
    Signal("policy_loss", "rlhf_policy_loss", "1", "Policy part of the loss, where a bonus is added to it."),
    Signal("auxiliary_loss", "rlhf_auxiliary_loss", "1", "Router load-balancing loss of a mixture of experts."),
    Signal(
        "grad_norm",
        "rlhf_grad_norm",
        "1",
        "L2 norm of the gradient before clipping, at the last micro-batch of the step.",
        baseline=True,
        watch_nonfinite=True,
        resolution=1e-3,
        relative_resolution=0.5,
    ),
    Signal("learning_rate", "rlhf_learning_rate", "1", "Learning rate used by the step's update."),
    # Policy
    Signal(
        "kl_per_token",
        "rlhf_kl_per_token_nats",
        "nats",
        "KL divergence of the policy from the reference model, mean per completion token (GRPO: k3 estimator). "
        "Absent when beta is 0.",
        baseline=True,
        watch_nonfinite=True,
        resolution=0.02,
        relative_resolution=0.5,
    ),
    Signal(
        "entropy",
        "rlhf_entropy_nats",
        "nats",
        "Entropy of the policy's next-token distribution, mean over completion tokens.",
        baseline=True,
        watch_nonfinite=True,
        resolution=0.02,
        relative_resolution=0.1,
    ),
    Signal("entropy_coefficient", "rlhf_entropy_coefficient", "1", "Weight of the entropy bonus in the loss."),
    Signal("clip_low_ratio", "rlhf_clip_low_ratio", "ratio", "Share of tokens clipped at the lower bound, mean."),
    Signal("clip_low_min_ratio", "rlhf_clip_low_min_ratio", "ratio", "Lowest share of lower-clipped tokens in a completion."),
    Signal("clip_high_ratio", "rlhf_clip_high_ratio", "ratio", "Share of tokens clipped at the upper bound, mean."),
    Signal("clip_high_max_ratio", "rlhf_clip_high_max_ratio", "ratio", "Highest share of upper-clipped tokens in a completion."),
    Signal("clip_region_ratio", "rlhf_clip_region_ratio", "ratio", "Share of tokens clipped at either bound."),
    Signal("cispo_clip_ratio", "rlhf_cispo_clip_ratio", "ratio", "Share of tokens whose weight CISPO clips."),
    Signal("vespo_phi_mean", "rlhf_vespo_phi_mean", "1", "Mean sequence-level reshaping weight of VESPO."),
    Signal(
        "sampling_logp_difference_mean",
        "rlhf_sampling_logp_difference_mean_nats",
        "nats",
        "Mean absolute difference between the sampler's and the trainer's log-probability of a token.",
    ),
    Signal(
        "sampling_logp_difference_max",
        "rlhf_sampling_logp_difference_max_nats",
        "nats",
        "Largest absolute difference between the sampler's and the trainer's log-probability of a token.",
    ),
    Signal("importance_weight_min", "rlhf_importance_weight_min", "1", "Smallest sampler-to-trainer importance weight, after clipping."),
    Signal("importance_weight_mean", "rlhf_importance_weight_mean", "1", "Mean sampler-to-trainer importance weight, after clipping."),
    Signal("importance_weight_max", "rlhf_importance_weight_max", "1", "Largest sampler-to-trainer importance weight, after clipping."),
    # Reward
    Signal(
        "reward",
        "rlhf_reward_mean",
        "1",
        "Mean over completions of the weighted sum of the reward functions.",
        baseline=True,
        watch_nonfinite=True,
        resolution=0.02,
        relative_resolution=0.05,
    ),
    Signal("reward_std", "rlhf_reward_std", "1", "Standard deviation of the reward over the step's completions."),
    Signal(
        "reward_zero_std_ratio",
        "rlhf_reward_zero_std_ratio",
        "ratio",
        "TRL's frac_reward_zero_std. It is not the share of groups without advantage: with batch scaling it stays 0.",
    ),
    Signal(
        "zero_advantage_groups",
        "rlhf_zero_advantage_groups_ratio",
        "ratio",
        "Share of groups whose completions all got the same reward, so that they carry no gradient.",
        baseline=True,
    ),
    Signal(
        "unscored_ratio",
        "rlhf_unscored_completions_ratio",
        "ratio",
        "Share of completions that a reward function did not score (None or NaN), of the function where it is highest.",
        baseline=True,
        resolution=0.05,
    ),
    Signal(
        "constant_reward_functions_ratio",
        "rlhf_constant_reward_functions_ratio",
        "ratio",
        "Share of the reward functions that gave all completions of the step the same reward.",
        baseline=True,
    ),
    # Completions
    Signal(
        "completion_length",
        "rlhf_completion_length_mean_tokens",
        "tokens",
        "Mean completion length.",
        baseline=True,
        resolution=1.0,
    ),
    Signal("completion_length_min", "rlhf_completion_length_min_tokens", "tokens", "Shortest completion."),
    Signal("completion_length_max", "rlhf_completion_length_max_tokens", "tokens", "Longest completion."),
    Signal("terminated_length", "rlhf_terminated_length_mean_tokens", "tokens", "Mean length of completions that ended by themselves."),
    Signal("terminated_length_min", "rlhf_terminated_length_min_tokens", "tokens", "Shortest completion that ended by itself."),
    Signal("terminated_length_max", "rlhf_terminated_length_max_tokens", "tokens", "Longest completion that ended by itself."),
    Signal(
        "truncated_ratio",
        "rlhf_completions_truncated_ratio",
        "ratio",
        "Share of completions cut off at the length limit instead of ending with an end-of-sequence token.",
        baseline=True,
    ),
    Signal("tool_calls", "rlhf_tool_calls_per_completion", "1", "Mean number of tool calls per completion."),
    Signal("tool_failure_ratio", "rlhf_tool_failure_ratio", "ratio", "Share of tool calls that failed."),
    # Time
    Signal(
        "step_duration",
        "rlhf_step_duration_last_seconds",
        "seconds",
        "Duration of the last step, from the end of one step to the end of the next.",
        baseline=True,
    ),
    Signal(
        "tokens_per_second",
        "rlhf_tokens_per_second",
        "1/seconds",
        "Prompt and completion tokens of all ranks in a generation, over the time since the generation before it ended.",
        baseline=True,
    ),
    Signal(
        "reward_function_time",
        "rlhf_reward_function_slowest_seconds",
        "seconds",
        "Duration of the step's longest call of a reward function.",
        baseline=True,
        resolution=0.05,
        relative_resolution=0.25,
    ),
    Signal("trainer_step_time", "rlhf_training_step_seconds", "seconds", "TRL's step_time: forward, backward and generation, without the rest."),
    Signal("epoch", "rlhf_epoch", "1", "Epoch reached."),
    # System, as this process sees it
    Signal("gpu_memory_used", "rlhf_gpu_memory_used_max_ratio", "ratio", "Used share of the fullest visible GPU's memory.", momentary=True),
    Signal(
        "allocation_retries",
        "rlhf_torch_recent_allocation_retries",
        "1",
        "Times that the CUDA caching allocator had to free its cache and retry, in the last 15 minutes.",
        momentary=True,
    ),
    Signal("host_memory_used", "rlhf_host_memory_used_ratio", "ratio", "Used share of the memory that this host, or its cgroup, has.", momentary=True),
    Signal(
        "host_memory_exhaustion",
        "rlhf_host_memory_exhaustion_seconds",
        "seconds",
        "Time until host memory is used up if this process goes on growing as it did lately; absent while it does not grow.",
        momentary=True,
    ),
)

SIGNAL_BY_NAME: Final[dict[str, Signal]] = {signal.name: signal for signal in SIGNALS}
