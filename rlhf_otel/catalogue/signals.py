"""Signals: the canonical quantities of a training step, and how each is exposed.

The host's spelling of a quantity is not here (that is ``sources/trl_keys``): the same word can mean
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
    drift: bool = False
    """Whether a CUSUM against its trend is kept and exported too."""
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
    Signal("policy_loss", "rlhf_policy_loss", "1", "Policy part of the loss, where another (entropy bonus, value loss) is added to it.", baseline=True, resolution=0.01, relative_resolution=0.5),
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
    Signal("learning_rate", "rlhf_learning_rate", "1", "Learning rate used by the step's update.", baseline=True),
    # Policy
    Signal("optimizer_step_skipped", "rlhf_optimizer_step_skipped", "1", "1 when mixed-precision scaling skipped the step's update, else 0; absent until one has been skipped.", baseline=True),
    Signal(
        "kl_per_token",
        "rlhf_kl_per_token_nats",
        "nats",
        "KL divergence of the policy from the reference model, mean per completion token (GRPO: k3 estimator). "
        "Absent when beta is 0.",
        baseline=True,
        watch_nonfinite=True,
        drift=True,
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
        drift=True,
        resolution=0.02,
        relative_resolution=0.1,
    ),
    Signal("entropy_coefficient", "rlhf_entropy_coefficient", "1", "Weight of the entropy bonus in the loss."),
    Signal("kl_unobserved", "rlhf_kl_unobserved", "1", "1 while completions are rewarded and no KL is measured (beta is 0); else absent.", momentary=True),
    Signal("clip_low_ratio", "rlhf_clip_low_ratio", "ratio", "Share of tokens clipped at the lower bound, mean."),
    Signal("clip_low_min_ratio", "rlhf_clip_low_min_ratio", "ratio", "Lowest share of lower-clipped tokens in a completion."),
    Signal("clip_high_ratio", "rlhf_clip_high_ratio", "ratio", "Share of tokens clipped at the upper bound, mean."),
    Signal("clip_high_max_ratio", "rlhf_clip_high_max_ratio", "ratio", "Highest share of upper-clipped tokens in a completion."),
    Signal("clip_region_ratio", "rlhf_clip_region_ratio", "ratio", "Share of tokens clipped at either bound.", baseline=True, resolution=0.02),
    Signal("cispo_clip_ratio", "rlhf_cispo_clip_ratio", "ratio", "Share of tokens whose weight CISPO clips."),
    Signal("vespo_phi_mean", "rlhf_vespo_phi_mean", "1", "Mean sequence-level reshaping weight of VESPO."),
    # NaN of this is no failure: a sampler gives none to tokens that it could not score; TRL leaves those out since 1.16.
    Signal(
        "sampling_logp_difference_mean",
        "rlhf_sampling_logp_difference_mean_nats",
        "nats",
        "Mean absolute difference between the sampler's and the trainer's log-probability of a token.",
        baseline=True,
        resolution=0.01,
    ),
    Signal(
        "sampling_logp_difference_max",
        "rlhf_sampling_logp_difference_max_nats",
        "nats",
        "Largest absolute difference between the sampler's and the trainer's log-probability of a token.",
    ),
    Signal("importance_weight_min", "rlhf_importance_weight_min", "1", "Smallest sampler-to-trainer importance weight, after clipping."),
    Signal("importance_weight_mean", "rlhf_importance_weight_mean", "1", "Mean sampler-to-trainer importance weight, after clipping; near 1 while the two agree.", baseline=True, resolution=0.02),
    Signal("importance_weight_max", "rlhf_importance_weight_max", "1", "Largest sampler-to-trainer importance weight, after clipping."),
    # Value function (PPO)
    Signal(
        "value_loss",
        "rlhf_value_loss",
        "1",
        "Loss of the value function.",
        baseline=True,
        watch_nonfinite=True,
        resolution=1e-3,
    ),
    # Policy: other trainers' KL. One word, six meanings, hence six signals.
    Signal(
        "kl_per_token_sampled",
        "rlhf_kl_per_token_sampled_nats",
        "nats",
        "RLOO: signed k1 estimate of the KL divergence of the policy that generated from the reference model, mean per completion token.",
        baseline=True,
        watch_nonfinite=True,
        resolution=0.02,
        relative_resolution=0.5,
    ),
    Signal(
        "kl_per_sequence",
        "rlhf_kl_per_sequence_nats",
        "nats",
        "PPO and online DPO: KL divergence of the policy from the reference model, summed over a completion, mean over completions.",
        baseline=True,
        watch_nonfinite=True,
        resolution=0.5,
        relative_resolution=0.5,
    ),
    Signal(
        "approx_kl",
        "rlhf_approx_kl_nats",
        "nats",
        "PPO: half the mean squared change of log-probabilities since the rollout (not against the reference), padding included; corrected for unfilled cells.",
        baseline=True,
        resolution=1e-3,
        relative_resolution=0.5,
    ),
    Signal("kto_kl_baseline", "rlhf_kto_kl_baseline_nats", "nats", "KTO: the loss's KL baseline, per sequence, from mismatched pairs of prompt and completion, clamped at 0.", baseline=True, resolution=0.5),
    Signal("kl_to_sampler", "rlhf_kl_to_sampler_per_token_nats", "nats", "Async GRPO: KL divergence of the policy from the older policy that sampled, mean per completion token.", baseline=True, watch_nonfinite=True, resolution=0.02, relative_resolution=0.5),
    Signal("kl_coefficient", "rlhf_kl_coefficient", "1", "Weight of the KL penalty in the reward."),
    Signal("sequence_entropy", "rlhf_sequence_entropy_nats", "nats", "PPO and online DPO: mean negative log-probability of a whole completion.", baseline=True, resolution=0.5),
    Signal("policy_ratio", "rlhf_policy_ratio_mean", "1", "PPO: mean ratio of the policy's probabilities to those of the rollout; corrected for unfilled cells.", baseline=True, resolution=0.01, relative_resolution=0.02),
    Signal(
        "policy_ratio_variance",
        "rlhf_policy_ratio_variance",
        "1",
        "PPO: variance of the mean ratio over the updates of a step; corrected for unfilled cells, absent where there is a single cell.",
        baseline=True,
        resolution=1e-3,
        relative_resolution=0.5,
    ),
    Signal("ratio_to_sampler", "rlhf_ratio_to_sampler_mean", "1", "Async GRPO: mean ratio of the policy's token probabilities to those of the older policy that sampled.", baseline=True, resolution=0.01),
    Signal("value_clip_ratio", "rlhf_value_clip_ratio", "ratio", "PPO: share of tokens whose value update is clipped; corrected for unfilled cells.", baseline=True, resolution=0.05),
    Signal(
        "kl_policy_loss_ratio",
        "rlhf_kl_to_policy_loss_ratio",
        "1",
        "PPO: KL penalty (coefficient times per-sequence KL) over the size of the policy loss; absent while that is too near 0 for a quotient to mean anything.",
        momentary=True,
    ),
    Signal(
        "value_policy_loss_ratio",
        "rlhf_value_to_policy_loss_ratio",
        "1",
        "PPO: value loss times its coefficient over the size of the policy loss; absent while that is too near 0 for a quotient to mean anything.",
        momentary=True,
    ),
    # Scores and implicit rewards
    Signal("score", "rlhf_score_mean", "1", "Mean raw output of the reward model, without a KL penalty.", baseline=True, watch_nonfinite=True, resolution=0.02, relative_resolution=0.05),
    Signal("score_min", "rlhf_score_min", "1", "Lowest raw output of the reward model."),
    Signal("score_max", "rlhf_score_max", "1", "Highest raw output of the reward model."),
    Signal("score_margin", "rlhf_score_margin_mean", "1", "Score of the chosen completion less that of the rejected one, mean."),
    Signal("reference_score", "rlhf_reference_score_mean", "1", "XPO and Nash-MD: mean score of the other model's completions (the reference's; a mixture of policy and reference)."),
    Signal("kl_penalty_reward", "rlhf_kl_penalty_reward_mean", "1", "Part of the reward that is the KL penalty, mean over completions."),
    Signal("eos_tokens", "rlhf_eos_tokens", "tokens", "PPO: end-of-sequence tokens in this rank's completions; where the padding token is the same, padding counts too."),
    Signal("eos_per_completion", "rlhf_eos_tokens_per_completion", "1", "PPO: the same per completion; absent where neither a stop token nor a penalty asks for one.", baseline=True),
    Signal("eos_ratio", "rlhf_completions_with_eos_ratio", "ratio", "Share of completions that contain an end-of-sequence token.", baseline=True),
    Signal("reference_eos_ratio", "rlhf_reference_completions_with_eos_ratio", "ratio", "XPO and Nash-MD: the same of the other model's completions."),
    Signal("episodes", "rlhf_episodes", "1", "PPO: completions trained on so far, all ranks."),
    Signal("episodes_per_second", "rlhf_episodes_per_second", "1/seconds", "PPO: episodes over the time since the start."),
    Signal("chosen_reward", "rlhf_chosen_reward_mean", "1", "Implicit reward of chosen completions: beta times the log-ratio to the reference (CPO, ORPO: the log-probability).", baseline=True, watch_nonfinite=True, resolution=0.02),
    Signal("rejected_reward", "rlhf_rejected_reward_mean", "1", "Implicit reward of rejected completions.", baseline=True, watch_nonfinite=True, resolution=0.02),
    Signal(
        "preference_accuracy",
        "rlhf_preference_accuracy_ratio",
        "ratio",
        "Share of pairs in which the chosen completion has the higher reward: the implicit one, or the reward model's own.",
        baseline=True,
    ),
    Signal("preference_margin", "rlhf_preference_margin_mean", "1", "Reward of the chosen completion less that of the rejected one, mean over pairs.", baseline=True, watch_nonfinite=True, resolution=0.01, relative_resolution=0.2),
    Signal("preference_probability", "rlhf_preference_probability_mean", "1", "Nash-MD: mean probability that the judge prefers the policy's completion."),
    Signal("chosen_logprob", "rlhf_chosen_logprob_nats", "nats", "Log-probability of a chosen completion under the policy, mean over completions (a sum over its tokens; IPO, SimPO: a mean).", baseline=True, watch_nonfinite=True, resolution=0.2, relative_resolution=0.05),
    Signal("rejected_logprob", "rlhf_rejected_logprob_nats", "nats", "Log-probability of a rejected completion under the policy, mean over completions.", baseline=True, watch_nonfinite=True, resolution=0.2, relative_resolution=0.05),
    Signal("chosen_logprob_per_token", "rlhf_chosen_logprob_per_token_nats", "nats", "ORPO: log-probability of a token of a chosen completion, mean.", baseline=True, watch_nonfinite=True, resolution=0.02),
    Signal("rejected_logprob_per_token", "rlhf_rejected_logprob_per_token_nats", "nats", "ORPO: log-probability of a token of a rejected completion, mean.", baseline=True, watch_nonfinite=True, resolution=0.02),
    Signal("chosen_logit", "rlhf_chosen_logit_mean", "1", "Mean logit over tokens and vocabulary of chosen completions."),
    Signal("rejected_logit", "rlhf_rejected_logit_mean", "1", "Mean logit over tokens and vocabulary of rejected completions."),
    Signal("log_odds", "rlhf_log_odds_chosen_mean", "1", "ORPO: log of the odds of the chosen over those of the rejected completion, mean."),
    Signal("log_odds_ratio", "rlhf_log_odds_ratio_mean", "1", "ORPO: log-sigmoid of those log odds, mean."),
    Signal("reward_shift", "rlhf_bco_reward_shift", "1", "BCO: running mean of rewards that the loss subtracts."),
    Signal("implicit_reward", "rlhf_implicit_reward_mean", "1", "A2PO: implicit reward of the policy's completions, mean."),
    Signal("optimal_value", "rlhf_optimal_value_mean", "1", "A2PO: estimated optimal value of the prompts, mean."),
    Signal("advantage", "rlhf_advantage_mean", "1", "A2PO: reward less optimal value, mean."),
    # Supervised learning and distillation
    Signal("data_entropy", "rlhf_data_entropy_nats", "nats", "Entropy of the next-token distribution over tokens of the data set, which the policy did not sample.", baseline=True, watch_nonfinite=True, resolution=0.02),
    Signal("token_accuracy", "rlhf_token_accuracy_ratio", "ratio", "Share of the data set's tokens that the model finds most likely.", baseline=True),
    Signal("nll_loss", "rlhf_nll_loss_nats", "nats", "Negative log-likelihood of chosen completions, or of the model's own."),
    Signal("dpo_loss", "rlhf_dpo_loss", "1", "XPO: its DPO part of the loss."),
    Signal("exploration_loss", "rlhf_exploration_loss", "1", "XPO: its exploration part of the loss."),
    Signal("nash_score_loss", "rlhf_nash_score_loss", "1", "Nash-MD: its preference part of the loss."),
    Signal("nash_kl_loss", "rlhf_nash_kl_loss", "1", "Nash-MD: its KL part of the loss."),
    Signal("distillation_loss", "rlhf_distillation_loss", "1", "Self-distillation: divergence from the teacher, as trained on.", baseline=True, watch_nonfinite=True, resolution=1e-3, relative_resolution=0.5),
    Signal("distillation_divergence", "rlhf_distillation_divergence_nats", "nats", "Generalised Jensen-Shannon divergence of student and teacher, mean per token.", baseline=True, resolution=1e-3, relative_resolution=0.5),
    Signal("teacher_entropy", "rlhf_teacher_entropy_nats", "nats", "Entropy of the teacher's next-token distribution, mean."),
    Signal("on_policy_loss", "rlhf_on_policy_loss", "1", "Loss on the student's own completions."),
    Signal("off_policy_loss", "rlhf_off_policy_loss", "1", "Loss on completions of the data set."),
    Signal("matched_vocabulary_loss", "rlhf_matched_vocabulary_loss", "1", "GOLD: loss over tokens that both vocabularies have."),
    Signal("unmatched_vocabulary_loss", "rlhf_unmatched_vocabulary_loss", "1", "GOLD: loss over the other tokens."),
    # Async pipelines
    Signal("staleness", "rlhf_sample_staleness_mean_steps", "steps", "Weight versions between the sampling of a completion and its training step, mean.", baseline=True),
    Signal("staleness_max", "rlhf_sample_staleness_max_steps", "steps", "The same, largest."),
    Signal("stale_samples_dropped", "rlhf_stale_samples_dropped", "1", "Completions dropped since the last log because they were too old."),
    Signal("rollout_queue", "rlhf_rollout_queue_samples", "1", "Completions that wait for the training loop."),
    Signal("rollout_queue_time", "rlhf_rollout_queue_seconds", "seconds", "Time that a completion waited for the training loop."),
    Signal("rollout_wait", "rlhf_rollout_wait_seconds", "seconds", "Time that the training loop waited for completions.", baseline=True),
    Signal("weight_sync_time", "rlhf_weight_sync_last_seconds", "seconds", "Duration of the last transfer of weights to the sampler.", baseline=True, resolution=0.05, relative_resolution=0.25),
    Signal("model_flops_utilization", "rlhf_model_flops_utilization_ratio", "ratio", "Model FLOPs over wall time as a share of the device's peak."),
    Signal("rollout_backpressure", "rlhf_rollout_backpressure_seconds", "seconds", "Time that the rollout worker waited because its queue was full."),
    Signal("sampler_retries", "rlhf_sampler_retries", "1", "Requests to the sampling server that were tried again since the last log."),
    Signal("rollouts_in_flight", "rlhf_rollouts_in_flight", "1", "Completions that are being sampled."),
    Signal("rollout_scoring_time", "rlhf_rollout_scoring_seconds", "seconds", "Time to score a group of completions."),
    # Reward
    Signal(
        "reward",
        "rlhf_reward_mean",
        "1",
        "Mean over completions of the reward that trains: the weighted sum of the reward functions (PPO, online DPO: the score less the KL penalty).",
        baseline=True,
        watch_nonfinite=True,
        drift=True,
        resolution=0.02,
        relative_resolution=0.05,
    ),
    Signal(
        "reward_std",
        "rlhf_reward_std",
        "1",
        "Standard deviation of the reward over the step's completions.",
        baseline=True,
        resolution=0.01,
        relative_resolution=0.05,
    ),
    Signal(
        "reward_function_share",
        "rlhf_reward_function_largest_share_ratio",
        "ratio",
        "Largest mean of a reward function over the sum of all their means, by magnitude; absent with a single function.",
        baseline=True,
        drift=True,
        resolution=0.02,
    ),
    Signal(
        "evaluation_gap",
        "rlhf_reward_evaluation_gap_ratio",
        "ratio",
        "Training reward less the last evaluation's, over the larger of the two; absent without evaluation.",
        baseline=True,
        resolution=0.05,
    ),
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
        resolution=0.02,
    ),
    Signal("groups_all_right", "rlhf_groups_all_right_ratio", "ratio", "Share of groups without advantage whose one reward lies in the upper half of the range of rewards of late: too easy.", baseline=True, resolution=0.02),
    Signal("groups_all_wrong", "rlhf_groups_all_wrong_ratio", "ratio", "Share of groups without advantage whose one reward lies in the lower half of the range of rewards of late, or is 0 or less while no reward has ever differed: too hard.", baseline=True, resolution=0.02),
    Signal("reward_length_correlation", "rlhf_reward_length_correlation", "1", "Pearson correlation, over the completions of a generation, of the reward with the length in characters.", baseline=True, resolution=0.1),
    Signal("advantage_std", "rlhf_advantage_std", "1", "Standard deviation of advantages before scaling: of rewards within their groups.", baseline=True, resolution=0.01),
    Signal("reward_function_correlation", "rlhf_reward_function_lowest_correlation", "1", "Lowest correlation of two reward functions over a step's completions; absent with one, or while one is constant.", baseline=True, resolution=0.05),
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
    Signal("repetition_ratio", "rlhf_completions_repetition_ratio", "ratio", "Share of a completion's sequences of four words that occur earlier in it, mean over a sample of completions.", baseline=True, resolution=0.05),
    Signal("distinct_2", "rlhf_completions_distinct_2_ratio", "ratio", "Different pairs of neighbouring words over all of them, in a sample of a generation's completions."),
    Signal("empty_completion_ratio", "rlhf_completions_empty_ratio", "ratio", "Share of completions without any text.", baseline=True, resolution=0.02),
    Signal("truncated_token_ratio", "rlhf_completions_truncated_token_ratio", "ratio", "Share of completion tokens that belong to completions which were cut off."),
    Signal("masked_token_ratio", "rlhf_completions_masked_token_ratio", "ratio", "Share of completion tokens that the loss leaves out because their completion was cut off (mask_truncated_completions).", baseline=True, resolution=0.02),
    Signal("terminated_length", "rlhf_terminated_length_mean_tokens", "tokens", "Mean length of completions that ended by themselves."),
    Signal("terminated_length_min", "rlhf_terminated_length_min_tokens", "tokens", "Shortest completion that ended by itself."),
    Signal("terminated_length_max", "rlhf_terminated_length_max_tokens", "tokens", "Longest completion that ended by itself."),
    Signal(
        "truncated_ratio",
        "rlhf_completions_truncated_ratio",
        "ratio",
        "Share of completions cut off at the length limit instead of ending with an end-of-sequence token.",
        baseline=True,
        resolution=0.02,
    ),
    Signal("tool_calls", "rlhf_tool_calls_per_completion", "1", "Mean number of tool calls per completion."),
    Signal("tool_failure_ratio", "rlhf_tool_failure_ratio", "ratio", "Share of tool calls that failed.", baseline=True),
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
    Signal("reward_function_errors", "rlhf_reward_function_step_errors", "1", "Calls of a reward function that raised in the step, on this rank; absent where none did.", momentary=True),
    Signal("weight_sync_failures", "rlhf_weight_sync_step_failures", "1", "Transfers of weights to the sampler that raised in the step; absent where none did.", momentary=True),
    Signal("trainer_step_time", "rlhf_training_step_seconds", "seconds", "TRL's step_time: forward, backward and generation, without the rest."),
    Signal("epoch", "rlhf_epoch", "1", "Epoch reached."),
    # RewardModelMonitor: of the watched rewards the worst
    Signal("reward_model_stability", "rlhf_reward_model_lowest_stability_ratio", "ratio", "Stability of the watched reward where it is lowest, once its window is full; 0 of a constant."),
    Signal("reward_model_consistency", "rlhf_reward_model_lowest_consistency_ratio", "ratio", "Test-retest reliability of the watched reward where it is lowest; absent unless completions are scored again."),
    Signal("reward_model_drift", "rlhf_reward_model_largest_drift_ratio", "ratio", "Significant Kolmogorov-Smirnov distance of a watched reward's scores from the reference window, the largest; 0 where none is significant."),
    Signal("reward_model_shortcut", "rlhf_reward_model_largest_shortcut_correlation", "1", "Rank correlation of a watched reward with length, repetition or markup, the largest by magnitude."),
    Signal("reward_model_saturation", "rlhf_reward_model_largest_saturated_ratio", "ratio", "Share of scores at the top of the observed range, of the watched reward where it is highest; those of a constant do not count."),
    Signal("reward_model_accuracy", "rlhf_reward_model_lowest_pairs_accuracy_ratio", "ratio", "Share of labelled pairs whose chosen completion has the higher score, of the watched reward where it is lowest; absent without pairs."),
    Signal("reward_model_calibration_error", "rlhf_reward_model_largest_calibration_error_ratio", "ratio", "Expected calibration error on labelled pairs, the largest; absent without pairs."),
    Signal("reward_model_timeouts", "rlhf_reward_model_largest_timeouts_ratio", "ratio", "Share of calls that timed out, of the watched reward where it is highest."),
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
    Signal("process_memory_growth", "rlhf_process_memory_growth_ratio", "ratio", "Growth of this process's private memory over the latest samples, jumps left out, as a share of the lowest; absent at first.", momentary=True),
    Signal("gpu_memory_growth", "rlhf_gpu_memory_growth_ratio", "ratio", "The same of live tensors on the GPU where they grow most.", momentary=True),
    Signal("checkpoint_age", "rlhf_checkpoint_age_ratio", "1", "Steps since the last checkpoint (at first: since the start) over the planned interval; absent where none is planned by steps.", momentary=True),
    Signal("checkpoint_room", "rlhf_checkpoint_room_ratio", "1", "Free disk space where checkpoints go, in checkpoints of the last one's size; absent until one is written.", momentary=True),
    Signal("checkpoint_health", "rlhf_checkpoint_health_ratio", "ratio", "Health of the last checkpoint that was analysed, 0 to 1; its worst finding dominates (docs/checkpoints.md)."),
    Signal("weights", "rlhf_checkpoint_nonfinite_weights", "1", "Findings of NaN or infinite weights in the last checkpoint that was analysed; counted as not finite once for each such checkpoint.", watch_nonfinite=True),
    Signal("checkpoint_drift", "rlhf_checkpoint_drift_ratio", "ratio", "L2 distance of its weights from those of the checkpoint before, over their norm; absent without one before."),
    Signal("checkpoint_reference_drift", "rlhf_checkpoint_reference_drift_ratio", "ratio", "The same from the model that training started from; of an adapter, of the weights that it adapts; absent where that model is not on this host's disk."),
)

MONITORED: Final = frozenset(s.name for s in SIGNALS if s.name.startswith("reward_model_"))
"""Signals that a run has only with a `RewardModelMonitor`."""

SIGNAL_BY_NAME: Final[dict[str, Signal]] = {signal.name: signal for signal in SIGNALS}
