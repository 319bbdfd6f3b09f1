"""Rules of single trainers: PPO, RLOO's KL, online DPO; preference trainers and reward models."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

_LEVEL = RuleClass.LEVEL
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
_HEURISTIC = "Heuristic; calibrated on real tiny runs."

TRAINER_RULES: Final[tuple[Rule, ...]] = (
    # PPO, and KL by its other meanings
    Rule(
        "SequenceKLRunaway", _LEVEL, _CRITICAL,
        "the KL divergence of whole completions from the reference runs away",
        "The policy leaves the reference: the learning rate is too high, kl_coef (beta) too low, or the reward is being hacked.",
        "Stop and go back to the last checkpoint before the first bad step; lower the learning rate or raise kl_coef, and "
        "read completions from just before and after.",
        _HEURISTIC + " PPO and online DPO: a sum over the completion; 50 nats is 1 nat a token for 50 tokens.",
        conditions=(
            Comparison("kl_per_sequence", Statistic.RATIO, ">", 4.0),
            Comparison("kl_per_sequence", Statistic.AVERAGE, ">", 50.0),
        ),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "SampledKLRunaway", _LEVEL, _CRITICAL,
        "the KL divergence of what was sampled from the reference runs away",
        "The policy leaves the reference: the learning rate is too high, beta too low, or the reward is being hacked.",
        "Stop and go back to the last checkpoint before the first bad step; lower the learning rate or raise beta.",
        _HEURISTIC + " RLOO: as KLRunaway, by another estimator.",
        conditions=(
            Comparison("kl_per_token_sampled", Statistic.RATIO, ">", 4.0),
            Comparison("kl_per_token_sampled", Statistic.AVERAGE, ">", 1.0),
        ),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "KLNegative", _LEVEL, _WARNING,
        "the estimated KL divergence from the reference is far below zero",
        "Completions were not sampled from the policy whose log-probabilities are taken: a minimum length, a temperature, "
        "top-k or top-p at sampling alone, or padding that counts. The penalty then pays for leaving the reference.",
        "Sample with top_k=0, top_p=1 and no minimum length; check the temperature on both sides and the padding mask.",
        "A KL divergence is not negative, and its k1 estimate is so only by chance; 1 nat a completion is a heuristic.",
        conditions=(Comparison("kl_per_sequence", Statistic.AVERAGE, "<", -1.0),),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "ValueClipFractionHigh", _LEVEL, _WARNING,
        "most value updates are clipped",
        "The value function is asked to move further than cliprange_value allows: its learning rate or the scale of the "
        "rewards is too large, or it has just been initialised.",
        "Scale or normalise the rewards; raise cliprange_value or lower the learning rate; look at the value loss.",
        _HEURISTIC,
        conditions=(Comparison("value_clip_ratio", Statistic.AVERAGE, ">", 0.5),),
        steps=10,
        after_step=20,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "PolicyRatioBlowUp", _LEVEL, _WARNING,
        "probability ratios between the updates of one step have become unstable",
        "Updates are so large that later mini-batches see another policy than the one that sampled: the learning rate is "
        "too high, or there are too many epochs.",
        "Lower the learning rate or num_ppo_epochs; raise the mini-batch size; look at the clip fraction beside it.",
        _HEURISTIC + " A variance of 0.01 means that mean ratios of mini-batches differ by 0.1.",
        conditions=(
            Comparison("policy_ratio_variance", Statistic.RATIO, ">", 5.0),
            Comparison("policy_ratio_variance", Statistic.AVERAGE, ">", 0.01),
        ),
        steps=3,
        inhibited_by=("NonFinite", "SequenceKLRunaway"),
    ),
    Rule(
        "EOSMissing", _LEVEL, _WARNING,
        "completions hardly ever end with an end-of-sequence token, which this run asks for",
        "The policy does not stop: it was not taught to, response_length is too small, the stop token is another one, or the "
        "missing_eos_penalty is outweighed by the reward.",
        "Read completions; raise response_length; check stop_token and missing_eos_penalty.",
        _HEURISTIC + " PPO; without a stop token or penalty the rule has nothing to judge.",
        conditions=(Comparison("eos_per_completion", Statistic.AVERAGE, "<", 0.05),),
        steps=20,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "CompletionsWithoutEOS", _LEVEL, _WARNING,
        "hardly any completion contains an end-of-sequence token",
        "The policy does not stop: it was not taught to, max_new_tokens is too small, or eos_token_id is another one.",
        "Read completions; raise max_new_tokens; set missing_eos_penalty.",
        _HEURISTIC + " Online DPO, XPO, Nash-MD.",
        conditions=(Comparison("eos_ratio", Statistic.AVERAGE, "<", 0.05),),
        steps=20,
        inhibited_by=("NonFinite",),
    ),
    # Preference trainers and reward models
    Rule(
        "PreferenceBelowChance", _LEVEL, _WARNING,
        "the rejected completion is preferred more often than the chosen one",
        "Chosen and rejected are swapped in part of the data, the reference does not match the policy, the learning rate is "
        "too high, or the sign of the loss is wrong.",
        "Look at some pairs; check column names, chat template and reference model.",
        "Chance is 0.5; 0.4 for 50 steps lies beyond what small batches do by chance. At the first step of DPO it is 0.",
        conditions=(Comparison("preference_accuracy", Statistic.AVERAGE, "<", 0.4),),
        steps=50,
        after_step=20,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "PreferenceMarginCollapse", _LEVEL, _WARNING,
        "the margin between chosen and rejected completions has collapsed",
        "The model forgets the preference: a learning rate that is too high, other data, or weights that broke; so too when "
        "chosen completions alone become less likely, since the margin is chosen less rejected.",
        "Compare loss, accuracy and learning rate at that step; look at the data since then; go back to a checkpoint.",
        _HEURISTIC,
        conditions=(
            Comparison("preference_margin", Statistic.RATIO, "<", 0.3),
            Comparison("preference_margin", Statistic.SHIFT, "<", -4.0),
        ),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "LikelihoodDisplacement", _LEVEL, _WARNING,
        "chosen and rejected completions become less likely together",
        "The loss only asks for a difference: probability moves to answers that nobody compared.",
        "Add an SFT term (rpo_alpha, nll), raise beta, drop pairs that hardly differ; read what the policy writes now.",
        "Razin et al. (arXiv:2410.08847), Pal et al. (arXiv:2402.13228); the heights are heuristics.",
        conditions=(
            Comparison("chosen_logprob", Statistic.SHIFT, "<", -3.0),
            Comparison("rejected_logprob", Statistic.SHIFT, "<", -3.0),
            Comparison("chosen_reward", Statistic.AVERAGE, "<", 0.0),
        ),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "PreferenceSaturated", _LEVEL, _INFO,
        "every pair is told apart for a long time",
        "Nothing is left to learn from these pairs; what follows is memorised, or a shortcut such as length tells them apart.",
        "Compare with the accuracy in evaluation; stop here, or bring harder pairs.",
        _HEURISTIC,
        conditions=(Comparison("preference_accuracy", Statistic.AVERAGE, ">", 0.99),),
        steps=200,
        inhibited_by=("NonFinite",),
    ),
)  # fmt: skip
