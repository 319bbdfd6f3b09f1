"""Sections about what a run learns. Each holds what one family of trainers measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from rlhf_otel.dashboards.panels import lines, metric, signals
from rlhf_otel.dashboards.spec import Query, Section, Threshold

NOT_LOGGED: Final = "this trainer does not log it"
NO_REFERENCE: Final = "no KL is measured, as with beta 0, the default of GRPO (rule KLUnobserved)"
NO_EVALUATION: Final = "no evaluation has ended in this attempt"

LOSS: Final = signals(
    "Loss",
    ["loss"],
    "Level or falling is good; with group-normalised advantages it says little. A spike or NaN says much.",
    empty="no step has ended yet",
)
GRADIENT: Final = signals("Gradient norm", ["grad_norm"], "Level is good.", empty=NOT_LOGGED, minimum=0.0)
LEARNING_RATE: Final = signals(
    "Learning rate", ["learning_rate"], "As scheduled is good.", empty=NOT_LOGGED, minimum=0.0
)
NONFINITE: Final = lines(
    "NaN and infinite values",
    "Values that were not finite in the 5 minutes before, by signal, counted where they arise; trainers' own logs hide them. 0 is "
    "good, anything else pages (NonFinite).",
    "short",
    Query("max by (signal) (run_signal:rlhf_signal_nonfinite:increase)", "{{signal}}"),
    empty="no signal is watched in this run, or Prometheus lacks alerts/rlhf.recording.yaml",
    minimum=0.0,
    thresholds=(Threshold(None, "transparent"), Threshold(1, "red")),
)
EVALUATION: Final = lines(
    "Evaluation",
    "Last evaluation of each signal that training has too, by signal. Following the training value is good: a reward that rises "
    "in training alone is suspect (RewardHackingSuspected).",
    "short",
    Query(
        'max by (signal) (rlhf_evaluation_signal{signal=~"loss|reward|score|preference_accuracy|preference_margin|token_accuracy|kl_per_token"})',
        "{{signal}}",
    ),
    empty=NO_EVALUATION,
)
OPTIMISATION: Final = Section(
    "Optimisation",
    tuple(replace(panel, width=6) for panel in (LOSS, GRADIENT, LEARNING_RATE, NONFINITE)),
    folded=True,
)

PPO_OPTIMISATION: Final = Section("Optimisation", (LEARNING_RATE, NONFINITE), folded=True)
"""PPO logs neither a loss of the whole nor the norm of its gradient."""

KL_TOKEN: Final = signals(
    "KL to the reference",
    ["kl_per_token", "kl_per_token_sampled"],
    "Slowly rising is usual; a jump means that the policy has left the region "
    "where its rewards mean something.",
    empty=NO_REFERENCE,
    judged=2,
)
ENTROPY: Final = signals(
    "Entropy",
    ["entropy"],
    "Slowly falling is usual; a collapse means that all completions become alike.",
    empty=NOT_LOGGED,
    minimum=0.0,
)
CLIPPING: Final = signals(
    "Clipped tokens",
    ["clip_region_ratio", "clip_low_ratio", "clip_high_ratio"],
    "Exactly 0 is usual on-policy, some per cent where completions are reused.",
    empty=NOT_LOGGED,
    minimum=0.0,
)
REWARD: Final = signals(
    "Reward",
    ["reward", "reward_std"],
    "Rising, then level, is good; its scale is the run's own.",
    empty="this trainer has no rewarded completions",
)
ZERO_ADVANTAGE: Final = signals(
    "Groups without advantage",
    ["zero_advantage_groups", "groups_all_right", "groups_all_wrong"],
    "Low is good: such groups cost a rollout and teach nothing.",
    empty="this trainer has no groups",
    whole=True,
)
SAMPLER: Final = signals(
    "Sampler against trainer",
    ["sampling_logp_difference_mean", "importance_weight_mean"],
    "Difference near 0 and weight near 1 are good; with vLLM some hundredths.",
    empty="the trainer samples by itself, so that the two cannot differ",
)
POLICY: Final = Section("Policy", (REWARD, KL_TOKEN, ENTROPY, ZERO_ADVANTAGE, CLIPPING, SAMPLER))

NO_FUNCTION: Final = "this run has no reward functions"
FUNCTION_MEAN: Final = metric(
    "rlhf_reward_function_mean",
    "Mean",
    "Each rising towards its own maximum is good; one that rises while others fall is gaming.",
    "max by (reward_function) (rlhf_reward_function_mean)",
    "{{reward_function}}",
    empty=NO_FUNCTION,
)
FUNCTION_SPREAD: Final = metric(
    "rlhf_reward_function_std",
    "Spread",
    "Above 0 is good: a constant function teaches nothing.",
    "max by (reward_function) (rlhf_reward_function_std)",
    "{{reward_function}}",
    empty=NO_FUNCTION,
    minimum=0.0,
)
FUNCTION_TIME: Final = lines(
    "Time in reward functions",
    "Seconds in each reward function in a second of wall time, mean over ranks; asynchronous ones overlap. "
    "Small beside generation is good.",
    "s",
    Query(
        "max by (reward_function) (run_function:rlhf_reward_function_seconds:avg_rate)",
        "{{reward_function}}",
    ),
    empty="this run has no reward functions, or Prometheus lacks alerts/rlhf.recording.yaml",
    minimum=0.0,
    stacked=True,
)
FUNCTION_FAILURES: Final = lines(
    "What got no reward",
    "NaN (in the 5 minutes before), None and exceptions of reward functions. 0 is good.",
    "short",
    Query(
        "max by (reward_function) (run_function:rlhf_reward_function_nonfinite:increase)",
        "{{reward_function}} NaN",
    ),
    Query(
        "sum by (reward_function) (increase(rlhf_reward_function_none_total[$__rate_interval]))",
        "{{reward_function}} None",
    ),
    Query(
        "sum by (reward_function) (increase(rlhf_reward_function_errors_total[$__rate_interval]))",
        "{{reward_function}} raised",
    ),
    empty=NO_FUNCTION,
    minimum=0.0,
    width=12,
)
SLOWEST_CALL: Final = signals(
    "Slowest call", ["reward_function_time"], "Level is good.", empty=NO_FUNCTION, minimum=0.0
)
EVALUATION_GAP: Final = signals(
    "Training against evaluation",
    ["evaluation_gap"],
    "Near 0 is good: a gap that opens is the best sign of reward hacking that there is.",
    empty=NO_EVALUATION,
)
LENGTH_BIAS: Final = signals(
    "Reward and length",
    ["reward_length_correlation"],
    "Below 0.6 is good: above, length is what is rewarded.",
    empty=NO_FUNCTION,
    minimum=-1.0,
    maximum=1.0,
)
CONFLICT: Final = signals(
    "Lowest correlation of two functions",
    ["reward_function_correlation"],
    "Above -0.5 is good: below, they pull in opposite directions.",
    empty="only with several reward functions that vary",
    minimum=-1.0,
    maximum=1.0,
)
LARGEST_SHARE: Final = signals(
    "Weight of the largest function",
    ["reward_function_share"],
    "Far below 100 % is good: one that outweighs all others is the only one learned.",
    empty="only with several reward functions",
    whole=True,
)
FUNCTIONS: Final = Section(
    "Reward functions",
    (FUNCTION_MEAN, FUNCTION_SPREAD, FUNCTION_TIME, FUNCTION_FAILURES, replace(EVALUATION_GAP, width=12)),
    folded=True,
)

_NO_COMPLETIONS: Final = "this trainer samples no completions, or samples is off"
COMPLETIONS: Final = Section(
    "Completions",
    (
        signals(
            "Length",
            ["completion_length", "completion_length_min", "completion_length_max"],
            "Level is good; growth without more reward is length bias.",
            empty=_NO_COMPLETIONS,
            minimum=0.0,
        ),
        signals(
            "Cut off",
            ["truncated_ratio", "masked_token_ratio"],
            "Low is good: what is cut off has no end to be judged by.",
            empty=_NO_COMPLETIONS,
            whole=True,
        ),
        signals(
            "Repetition",
            ["repetition_ratio", "distinct_2"],
            "Low repetition and many different pairs of words are good.",
            empty=_NO_COMPLETIONS,
            whole=True,
        ),
    ),
    folded=True,
)

SUPERVISED_LEARNING: Final = Section(
    "Learning",
    (
        signals(
            "Token accuracy",
            ["token_accuracy"],
            "Rising is good.",
            empty="reward models have none",
            whole=True,
        ),
        signals(
            "Entropy on the data",
            ["data_entropy", "teacher_entropy"],
            "Falling is usual.",
            empty="reward models have none",
            minimum=0.0,
        ),
        signals(
            "Divergence from the teacher",
            ["distillation_divergence", "distillation_loss"],
            "Falling is good.",
            empty="only distillation has it",
            minimum=0.0,
        ),
        signals(
            "Accuracy on pairs",
            ["preference_accuracy"],
            "Above 50 %, the flip of a coin, and rising is good.",
            empty="only reward models have it",
            whole=True,
        ),
        signals(
            "Margin of pairs", ["preference_margin"], "Rising is good.", empty="only reward models have it"
        ),
        signals(
            "Score",
            ["score", "score_min", "score_max"],
            "Level is good: a scale that runs away is a reward model that is too sure.",
            empty="only reward models have it",
        ),
        EVALUATION,
    ),
)
PIPELINE: Final = Section(
    "Rollouts and staleness",
    (
        signals(
            "Staleness",
            ["staleness", "staleness_max"],
            "Small is good: old samples teach about an old policy.",
            empty="not an asynchronous trainer",
            minimum=0.0,
        ),
        signals(
            "Waiting for rollouts",
            ["rollout_wait", "rollout_backpressure"],
            "Near 0 is good: what waits is the side that has too much hardware.",
            empty="not an asynchronous trainer",
            minimum=0.0,
        ),
        signals(
            "Queue",
            ["rollout_queue", "rollouts_in_flight"],
            "Level, neither empty nor full, is good.",
            empty="not an asynchronous trainer",
            minimum=0.0,
        ),
        signals(
            "Transfer of weights",
            ["weight_sync_time"],
            "Level is good.",
            empty="no weights are sent",
            minimum=0.0,
        ),
        signals(
            "Ratio to the sampler",
            ["ratio_to_sampler"],
            "Near 1 is good.",
            empty="not an asynchronous trainer",
        ),
        signals(
            "KL to the sampler", ["kl_to_sampler"], "Near 0 is good.", empty="not an asynchronous trainer"
        ),
    ),
)

PHASES: Final = lines(
    "Phases",
    "Share of wall time in each phase, mean over ranks; together 100 %. Most of it in generation, forward and backward is good.",
    "percentunit",
    Query("max by (phase) (run_phase:rlhf_phase_seconds:avg_rate)", "{{phase}}"),
    empty="Prometheus lacks alerts/rlhf.recording.yaml, or the run is younger than some scrapes",
    points=240,
    stacked=True,
    minimum=0.0,
    width=12,
)
TIME: Final = Section(
    "Time",
    (
        PHASES,
        signals(
            "Step duration",
            ["step_duration"],
            "Level is good, in two bands where completions are reused.",
            empty="no step has ended yet",
            minimum=0.0,
            width=12,
        ),
    ),
    folded=True,
)
ASYNC_POLICY: Final = Section("Policy", (REWARD, ENTROPY, SAMPLER))
