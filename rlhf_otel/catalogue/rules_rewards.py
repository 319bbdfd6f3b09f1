"""Rules of rewards, reward functions and advantages."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

_EVENT, _LEVEL = RuleClass.EVENT, RuleClass.LEVEL
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
_HEURISTIC = "Heuristic; calibrated on real tiny runs and public logs."

REWARD_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "RewardCollapse", _LEVEL, _CRITICAL,
        "the reward fell far below its usual level and stays there",
        "The policy broke (see KL and entropy), a reward function or its service changed or fails, or the data changed.",
        "See which reward function fell. All of them: go back to the last good checkpoint. One: look at that function.",
        _HEURISTIC,
        conditions=(
            Comparison("reward", Statistic.SHIFT, "<", -4.0),
            Comparison("reward", Statistic.ZSCORE, "<", -2.0),  # a few extreme steps lower the average for longer
        ),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "ZeroAdvantageGroups", _LEVEL, _WARNING,
        "most groups have no advantage, so that the steps carry little gradient",
        "Every completion of a group gets the same reward: the reward is constant, saturated or too coarse, the prompts "
        "are all too easy or too hard, or the policy became deterministic.",
        "Check that rewards differ within a group; filter prompts that are always right or always wrong; refine the reward.",
        "DAPO (arXiv:2503.14476) filters such groups; the level of 70 % is a heuristic.",
        conditions=(Comparison("zero_advantage_groups", Statistic.AVERAGE, ">", 0.7),),
        steps=10,
        inhibited_by=("NonFinite", "NoAdvantage"),
    ),
    Rule(
        "RewardDrop", _EVENT, _WARNING,
        "the reward fell at once and stays down",
        "A reward function changed, fails or was inverted, its service answers defaults, or the weights were damaged.",
        "See which reward function fell at that step (rlhf_reward_function_mean).",
        _HEURISTIC,
        conditions=(Comparison("reward", Statistic.ZSCORE, "<", -5.0),),
        steps=3,
        inhibited_by=("NonFinite", "RewardFunctionSilent", "LearningRateJump", "RewardCollapse"),
    ),
    Rule(
        "RewardDrift", _LEVEL, _INFO,
        "the reward falls against its own trend",
        "The policy gets worse, the prompts harder, or a reward function's service answers differently.",
        "Compare the reward functions' means since then; RewardDrop and RewardCollapse warn if it goes on.",
        "CUSUM against the trend (Page 1954); its height is a heuristic.",
        conditions=(
            Comparison("reward", Statistic.CUSUM, "<", -40.0),
            Comparison("reward", Statistic.SHIFT, "<", -1.5),
        ),
        steps=3,
        inhibited_by=("NonFinite", "RewardDrop", "RewardCollapse", "RewardFunctionSilent", "LearningRateJump"),
    ),
    Rule(
        "AdvantageCollapse", _LEVEL, _INFO,
        "advantages have become small",
        "Completions of a group are rewarded nearly alike; without scaling by the group's deviation, gradients vanish too.",
        "Look at groups without advantage and at the reward's spread; refine the reward or bring harder prompts.",
        _HEURISTIC,
        conditions=(
            Comparison("advantage_std", Statistic.RATIO, "<", 0.7),
            Comparison("advantage_std", Statistic.SHIFT, "<", -2.5),
        ),
        steps=5,
        inhibited_by=("NonFinite", "NoAdvantage", "ZeroAdvantageGroups", "RewardDrop"),
    ),
    Rule(
        "RewardFunctionsInConflict", _LEVEL, _INFO,
        "two reward functions pull in opposite directions",
        "What one pays for the other punishes (length against correctness, say), so that the weights alone decide.",
        "Read the completions that each likes best; set reward_weights on purpose, or drop one.",
        "Heuristic: a correlation of -0.5 over completions explains a quarter of each other's variance.",
        conditions=(Comparison("reward_function_correlation", Statistic.AVERAGE, "<", -0.5),),
        steps=20,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "RewardHackingPossible", _LEVEL, _INFO,
        "the reward rises while the policy moves away fast and narrows down; no evaluation can tell whether that is good",
        "Fast learning, or a reward that is easier to please than the task.",
        "Weak evidence: evaluate on held-out prompts (eval_strategy), then RewardHackingSuspected can judge. Read completions.",
        "Heuristic. Gao et al. (arXiv:2210.10760): over-optimisation grows with the KL spent.",
        conditions=(
            Comparison("reward", Statistic.SHIFT, ">", 1.5),
            Comparison("kl_per_token", Statistic.RATIO, ">", 1.5),
            Comparison("entropy", Statistic.RATIO, "<", 0.85),
        ),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway", "RewardHackingSuspected"),
    ),
    Rule(
        "RewardSpreadJump", _EVENT, _WARNING,
        "rewards differ far more from each other than they did",
        "A reward function has become noisy or changed its scale: advantages now follow the noise.",
        "Compare rlhf_reward_function_std before and after; score one completion twice.",
        _HEURISTIC,
        conditions=(
            Comparison("reward_std", Statistic.VALUE_RATIO, ">", 2.5),
            Comparison("reward_std", Statistic.ZSCORE, ">", 12.0),
            Comparison("zero_advantage_groups", Statistic.BASELINE, "<", 0.15),  # else few groups make the spread
        ),
        steps=3,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "RewardSpreadCollapse", _LEVEL, _INFO,
        "rewards hardly differ any more",
        "The policy or the reward has become uniform: advantages are noise divided by almost nothing.",
        "Look at groups without advantage, entropy, and at whether the reward can still tell answers apart.",
        _HEURISTIC,
        conditions=(
            Comparison("reward_std", Statistic.RATIO, "<", 0.6),
            Comparison("reward_std", Statistic.SHIFT, "<", -4.0),
        ),
        steps=5,
        inhibited_by=("NonFinite", "NoAdvantage", "ZeroAdvantageGroups", "RewardDrop", "RewardCollapse"),
    ),
    Rule(
        "RewardPlateau", _LEVEL, _INFO,
        "the reward rose and then stopped rising",
        "Nothing is left to learn from these prompts, or the run is stuck.",
        "Compare with evaluation: stop here, or bring harder prompts.",
        _HEURISTIC,
        conditions=(
            Comparison("reward", Statistic.SHIFT, "<", 1.0),
            Comparison("reward", Statistic.REFERENCE_RATIO, ">", 1.2),
        ),
        steps=50,
    ),
    Rule(
        "RewardHackingSuspected", _LEVEL, _WARNING,
        "the training reward leaves the held-out evaluation behind",
        "The policy found what the reward pays for and the task does not want, or it overfits its prompts.",
        "Read completions with the highest rewards; compare reward functions; stop at the best evaluation.",
        "Gao et al. (arXiv:2210.10760) show the divergence; 55 % of the reward is a heuristic. Needs evaluation in training.",
        conditions=(
            Comparison("evaluation_gap", Statistic.AVERAGE, ">", 0.55),
            Comparison("evaluation_gap", Statistic.SHIFT, ">", 1.0),
        ),
        steps=20,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "NoAdvantage", _EVENT, _WARNING,
        "from one step to the next no group has an advantage any more",
        "The reward has become constant, or generation deterministic (temperature 0, do_sample off).",
        "Check the reward functions' answers and the generation settings at that step.",
        "Definition: groups of equal rewards carry no gradient; that they did before tells a fault from a coarse reward.",
        conditions=(
            Comparison("zero_advantage_groups", Statistic.VALUE, ">", 0.99),
            Comparison("zero_advantage_groups", Statistic.BASELINE, "<", 0.15),
            Comparison("zero_advantage_groups", Statistic.ZSCORE, ">", 8.0),  # of one group a step, each may be dead
        ),
        steps=3,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "ZeroAdvantageRising", _LEVEL, _INFO,
        "more and more groups have no advantage",
        "Prompts are becoming too easy or too hard for the policy, or it becomes deterministic.",
        "Filter or exchange prompts (dynamic sampling, DAPO arXiv:2503.14476).",
        _HEURISTIC,
        conditions=(
            Comparison("zero_advantage_groups", Statistic.SHIFT, ">", 3.0),
            Comparison("zero_advantage_groups", Statistic.AVERAGE, ">", 0.12),
        ),
        steps=3,
        inhibited_by=("NonFinite", "NoAdvantage", "ZeroAdvantageGroups"),
    ),
    Rule(
        "RewardFunctionSilent", _EVENT, _WARNING,
        "a reward function stopped scoring completions",
        "It returns None or NaN for all of them; TRL leaves it out of the sum and trains on without it.",
        "See rlhf_reward_function_none_total and rlhf_reward_function_nonfinite_total for which one.",
        "Definition: nothing scored, where something was.",
        conditions=(
            Comparison("unscored_ratio", Statistic.VALUE, ">", 0.99),
            Comparison("unscored_ratio", Statistic.BASELINE, "<", 0.5),
        ),
        steps=2,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "RewardFunctionConstant", _EVENT, _INFO,
        "a reward function gives all completions the same reward",
        "It is satisfied by everything (a format that was learnt), or broken.",
        "Drop or refine it; it teaches nothing now.",
        "Heuristic: 50 steps in a row.",
        conditions=(Comparison("constant_reward_functions_ratio", Statistic.VALUE, ">", 0.0),),
        steps=50,
        inhibited_by=("NonFinite", "NoAdvantage", "ZeroAdvantageGroups"),
    ),
    Rule(
        "RewardFunctionDominates", _LEVEL, _INFO,
        "one reward function makes up nearly all of the reward",
        "Its scale outweighs the others, which then hardly teach anything; or the policy games the one that is easy.",
        "Look at rlhf_reward_function_mean of each; set reward_weights.",
        _HEURISTIC,
        conditions=(Comparison("reward_function_share", Statistic.AVERAGE, ">", 0.9),),
        steps=20,
    ),
    Rule(
        "RewardMixChanging", _LEVEL, _INFO,
        "the largest part of the reward loses weight to the others",
        "The policy improves what is easy: a format, a length, a phrase.",
        "Read completions; compare the functions' means since then.",
        "CUSUM against the trend (Page 1954); its height is a heuristic.",
        conditions=(
            Comparison("reward_function_share", Statistic.CUSUM, "<", -40.0),
            Comparison("reward_function_share", Statistic.RATIO, "<", 0.95),
        ),
        steps=3,
        inhibited_by=("NonFinite", "RewardFunctionSilent"),
    ),
    Rule(
        "RewardFunctionSlow", _EVENT, _WARNING,
        "a reward function takes several times as long as usual",
        "A judge or service behind it is overloaded, throttled or retried.",
        "See rlhf_reward_function_seconds_total for which one; look at its service.",
        _HEURISTIC,
        conditions=(
            Comparison("reward_function_time", Statistic.ZSCORE, ">", 4.0),
            Comparison("reward_function_time", Statistic.VALUE_RATIO, ">", 2.5),
        ),
        steps=3,
    ),
)  # fmt: skip
