"""What scores completions: reward functions, reward models, and how far they can be trusted."""

from __future__ import annotations

from typing import Final

from rlhf_otel.dashboards import learning
from rlhf_otel.dashboards.learning import NO_FUNCTION
from rlhf_otel.dashboards.panels import BLUE, ORANGE, good_below, metric, signals, stat
from rlhf_otel.dashboards.spec import Board, Kind, Panel, Query, Section, Threshold

NO_MODEL: Final = "this run has no reward model"
NO_MONITOR: Final = "this run has no RewardModelMonitor"
NO_PAIRS: Final = "this run compares no pairs"
NO_GROUPS: Final = "this run has no groups of completions"
_BLUE: Final = (Threshold(None, BLUE),)

NOW: Final = Section(
    "Now",
    (
        stat(
            "Reward",
            "Mean reward that trains.",
            "short",
            Query("max(rlhf_reward_mean)"),
            empty="nothing is rewarded in this run",
            thresholds=_BLUE,
            width=4,
        ),
        stat(
            "Score",
            "Mean raw output of the reward model.",
            "short",
            Query("max(rlhf_score_mean)"),
            empty=NO_MODEL,
            thresholds=_BLUE,
            width=4,
        ),
        stat(
            "Not finite",
            "NaN and infinite rewards in the chosen time. 0 is good; NonFinite pages.",
            "short",
            Query("round(sum(increase(rlhf_reward_function_nonfinite_total[$__range])))"),
            empty=NO_FUNCTION,
            thresholds=good_below(1),
            width=4,
            decimals=0,
        ),
        stat(
            "Not scored",
            "Share of completions that a reward function did not score, of the function where it is highest. 0 is good.",
            "percentunit",
            Query("max(rlhf_unscored_completions_ratio)"),
            empty=NO_FUNCTION,
            thresholds=good_below(0.5, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Constant",
            "Share of the reward functions that gave all completions of the step the same reward. 0 is good.",
            "percentunit",
            Query("max(rlhf_constant_reward_functions_ratio)"),
            empty=NO_FUNCTION,
            thresholds=good_below(0.01, ORANGE),
            width=4,
            decimals=0,
        ),
        stat(
            "Slowest call",
            "Duration of the step's longest call of a reward function.",
            "s",
            Query("max(rlhf_reward_function_slowest_seconds)"),
            empty=NO_FUNCTION,
            thresholds=_BLUE,
            width=4,
        ),
    ),
)
FUNCTIONS: Final = Section(
    "Reward functions",
    (
        learning.FUNCTION_MEAN,
        learning.FUNCTION_SPREAD,
        learning.FUNCTION_TIME,
        Panel(
            Kind.TABLE,
            "Failures in this time",
            "By reward function: NaN or infinite, None, and calls that raised. 0 is good.",
            "short",
            (
                Query(
                    "round(sum by (reward_function) (increase(rlhf_reward_function_nonfinite_total[$__range])))",
                    "NaN",
                ),
                Query(
                    "round(sum by (reward_function) (increase(rlhf_reward_function_none_total[$__range])))",
                    "None",
                ),
                Query(
                    "round(sum by (reward_function) (increase(rlhf_reward_function_errors_total[$__range])))",
                    "Raised",
                ),
                Query("max by (reward_function) (rlhf_reward_function_mean)", "Mean"),
                Query("max by (reward_function) (rlhf_reward_function_std)", "Spread"),
            ),
            NO_FUNCTION,
            width=16,
            columns=("reward_function",),
            decimals=2,
            column_thresholds={name: good_below(1, ORANGE) for name in ("NaN", "None", "Raised")},
        ),
        learning.SLOWEST_CALL,
    ),
)
TRUST: Final = Section(
    "Can it be trusted",
    (
        learning.EVALUATION_GAP,
        learning.LENGTH_BIAS,
        learning.CONFLICT,
        learning.LARGEST_SHARE,
        learning.ZERO_ADVANTAGE,
        signals(
            "Spread of rewards",
            ["reward_std", "advantage_std"],
            "Level is good.",
            empty=NO_GROUPS,
            minimum=0.0,
        ),
    ),
)
MODEL: Final = Section(
    "Reward model",
    (
        signals(
            "Score",
            ["score", "score_min", "score_max"],
            "Rising in RLHF, level while the reward model itself is trained, is good.",
            empty=NO_MODEL,
        ),
        signals("Score margin", ["score_margin"], "Rising is good.", empty=NO_PAIRS),
        signals(
            "Accuracy on pairs",
            ["preference_accuracy"],
            "Above 50 %, the flip of a coin, is good.",
            empty=NO_PAIRS,
            whole=True,
        ),
        signals("Margin on pairs", ["preference_margin"], "Rising is good.", empty=NO_PAIRS),
        signals(
            "KL penalty in the reward",
            ["kl_penalty_reward"],
            "Small beside the score is good.",
            empty="the reward has no KL penalty",
        ),
    ),
    folded=True,
)
_WATCHED: Final = "{{reward_function}}"
WATCHED: Final = Section(
    "Watched by a RewardModelMonitor",
    (
        metric(
            "rlhf_reward_model_stability_ratio",
            "Stability",
            "Above 70 % is good.",
            "max by (reward_function) (rlhf_reward_model_stability_ratio)",
            _WATCHED,
            empty=NO_MONITOR,
        ),
        metric(
            "rlhf_reward_model_consistency_ratio",
            "Consistency",
            "100 % is good; below 75 % RewardModelInconsistent fires.",
            "max by (reward_function) (rlhf_reward_model_consistency_ratio)",
            _WATCHED,
            empty="no completion was scored twice (rescore_every)",
        ),
        metric(
            "rlhf_reward_model_shortcut_correlation",
            "Shortcuts",
            "Near 0 is good; beyond 0.6 RewardModelShortcut fires.",
            "max by (reward_function, shortcut) (rlhf_reward_model_shortcut_correlation)",
            "{{reward_function}}, {{shortcut}}",
            empty=NO_MONITOR,
        ),
        metric(
            "rlhf_reward_model_drift",
            "Drift",
            "Low is good; a policy that learns moves it too.",
            'max by (reward_function) (rlhf_reward_model_drift{measure="kolmogorov_smirnov"})',
            _WATCHED,
            empty="the reference window is not behind the last scores yet",
        ),
        metric(
            "rlhf_reward_model_lowest_agreement",
            "Agreement",
            "Above 0 is good; below, a reward works against another.",
            "max by (reward_function) (rlhf_reward_model_lowest_agreement)",
            _WATCHED,
            empty="needs two watched rewards",
        ),
        metric(
            "rlhf_reward_model_pairs_accuracy_ratio",
            "Accuracy on labelled pairs",
            "Above 55 %, better than chance, is good.",
            "max by (reward_function) (rlhf_reward_model_pairs_accuracy_ratio)",
            _WATCHED,
            empty="no labelled pairs were given (calibrate)",
        ),
    ),
    folded=True,
)
REWARD_MODEL: Final = Board(
    "rlhf-reward-model",
    "RLHF / Reward model",
    "What scores completions, and how far it can be trusted.",
    (NOW, FUNCTIONS, TRUST, WATCHED, MODEL),
)
