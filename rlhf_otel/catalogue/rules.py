"""Rules: what counts as wrong, declared once for both engines.

What a rule is, is in ``rule``; the rules of completions, resources, pipelines, single trainers and checkpoints
are in ``rules_*``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rlhf_otel.catalogue.rule import (
    LATCH_SECONDS,
    LATCH_STEPS,
    MAX_CRITICAL_RULES,
    Comparison,
    Condition,
    NonFinite,
    PromQL,
    Rule,
    RuleClass,
    Severity,
    Statistic,
)
from rlhf_otel.catalogue.rules_checkpoints import CHECKPOINT_RULES
from rlhf_otel.catalogue.rules_completions import COMPLETION_RULES
from rlhf_otel.catalogue.rules_pipelines import PIPELINE_RULES
from rlhf_otel.catalogue.rules_resources import RESOURCE_RULES
from rlhf_otel.catalogue.rules_trainers import TRAINER_RULES
from rlhf_otel.catalogue.signals import SIGNALS

__all__ = [
    "COMPARED",
    "FINISHED",
    "LATCH_SECONDS",
    "LATCH_STEPS",
    "MAX_CRITICAL_RULES",
    "RULES",
    "RULE_BY_NAME",
    "Comparison",
    "Condition",
    "NonFinite",
    "PromQL",
    "Rule",
    "RuleClass",
    "Severity",
    "Statistic",
    "compared",
]

_EVENT, _LEVEL, _OUTSIDE = RuleClass.EVENT, RuleClass.LEVEL, RuleClass.OUTSIDE
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
FINISHED: Final = "RunFinished"
"""The rule that silences the tickets of a run."""

_HEURISTIC = "Heuristic; calibrated on real tiny runs and public logs."

_REPLACED = """(
    max by (run_id, rank) (last_over_time(rlhf_last_progress_timestamp_seconds[2h])) + 60
      < on (run_id) group_left () max by (run_id) (last_over_time(rlhf_process_start_time_seconds{rank="0"}[2h]))
  )"""
"""Ranks of an earlier attempt that a later one does without: the run was started again with fewer."""

_LOCAL = 'sum without (instance, phase) (rate(rlhf_phase_seconds_total{scope="local"}[$range]))'

_WATCHED = tuple(signal.name for signal in SIGNALS if signal.watch_nonfinite)

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "NonFinite", _EVENT, _CRITICAL,
        "a loss, gradient, reward, log-probability, KL, entropy or weight is NaN or infinite",
        "Overflow in half precision, a division by zero in a reward function, corrupt data, or a learning rate that "
        "made the weights explode. The trainer's own logs can hide it: NaN losses are filtered and averages drop NaN.",
        "Look which signal was first. Reward: mend that reward function. Loss or gradient: go back to the last good "
        "checkpoint with a lower learning rate or bf16; the weights may already be damaged.",
        "Definition: no finite arithmetic can use the value.",
        conditions=(NonFinite(_WATCHED),),
        promql=PromQL(
            "sum without (instance, signal) (\n"
            "  (increase(rlhf_signal_nonfinite_total[5m]) > 0)\n"
            "    or (rlhf_signal_nonfinite_total > 0 unless rlhf_signal_nonfinite_total offset 5m)\n"
            "       and on (run_id) (time() - rlhf_process_start_time_seconds < 600)\n"
            ")"
        ),
    ),
    Rule(
        "LossSpike", _EVENT, _WARNING,
        "the loss jumped far out of its usual range",
        "A batch with extreme advantages or ratios, a learning rate that is too high, or stale log-probabilities.",
        "Look at the step's trace and at gradient norm and KL beside it. If it recurs: lower the learning rate, clip "
        "gradients, check the reward's scale.",
        _HEURISTIC,
        conditions=(Comparison("loss", Statistic.ZSCORE, ">", 12.0),),
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "GradientNormSpike", _EVENT, _WARNING,
        "the gradient norm jumped far out of its usual range",
        "An outlier batch, exploding ratios, or the first sign of divergence.",
        "One spike under clipping is harmless. Repeated ones: lower the learning rate or max_grad_norm.",
        _HEURISTIC,
        conditions=(Comparison("grad_norm", Statistic.ZSCORE, ">", 20.0),),
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "KLSpike", _EVENT, _INFO,
        "the KL divergence from the reference jumped far out of its usual range",
        "A few completions that the reference finds nearly impossible, or a too large update.",
        "Harmless if it falls back at once. Otherwise raise beta or lower the learning rate.",
        _HEURISTIC + " Healthy public runs have such spikes, hence information only; KLJump is the warning.",
        conditions=(Comparison("kl_per_token", Statistic.ZSCORE, ">", 16.0),),
        inhibited_by=("NonFinite", "KLRunaway", "KLJump"),
    ),
    Rule(
        "KLRunaway", _LEVEL, _CRITICAL,
        "the KL divergence from the reference runs away",
        "The policy leaves the reference: the learning rate is too high, beta too low, or the reward is being hacked.",
        "Stop and go back to the last checkpoint before the first bad step; lower the learning rate or raise beta, and "
        "read completions from just before and after.",
        _HEURISTIC + " Averages of healthy public runs stay below 1 nat per token.",
        conditions=(
            Comparison("kl_per_token", Statistic.RATIO, ">", 4.0),
            Comparison("kl_per_token", Statistic.AVERAGE, ">", 1.0),
        ),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "EntropyCollapse", _LEVEL, _WARNING,
        "the policy's entropy has collapsed",
        "The policy became nearly deterministic, so that groups stop differing and learning ends.",
        "Add an entropy bonus, raise the temperature or epsilon_high (clip-higher), lower the learning rate, or add "
        "harder prompts.",
        _HEURISTIC,
        conditions=(
            Comparison("entropy", Statistic.REFERENCE_RATIO, "<", 0.1),
            Comparison("entropy", Statistic.AVERAGE, "<", 0.1),
        ),
        steps=20,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
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
        "CompletionLengthExplosion", _LEVEL, _WARNING,
        "completions have become more than twice as long as usual",
        "The policy found that length pays, or has stopped ending its completions.",
        "Compare reward with length; add a length penalty or cap; look for missing end-of-sequence tokens.",
        _HEURISTIC,
        conditions=(Comparison("completion_length", Statistic.RATIO, ">", 2.0),),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "TruncationHigh", _LEVEL, _WARNING,
        "most completions are cut off at the length limit",
        "max_completion_length is too small for the task, or the policy no longer ends its completions. Cut-off answers "
        "usually score as wrong, so that the reward measures the limit.",
        "Raise max_completion_length, or use mask_truncated_completions; check the end-of-sequence token.",
        _HEURISTIC,
        conditions=(Comparison("truncated_ratio", Statistic.AVERAGE, ">", 0.8),),
        steps=20,
        inhibited_by=("NonFinite", "KLRunaway", "TruncationJump"),
    ),
    Rule(
        "ThroughputRegression", _LEVEL, _WARNING,
        "the run processes less than half of its usual tokens per second",
        "A slow reward function or service, a throttled or shared GPU, slow storage, or a straggling rank.",
        "Compare the phases before and after (rlhf_phase_seconds_total, slow-step traces).",
        _HEURISTIC,
        conditions=(Comparison("tokens_per_second", Statistic.RATIO, "<", 0.5),),
        steps=20,
        inhibited_by=("RunStalled", "RewardFunctionSlow"),
    ),
    Rule(
        "GPUMemoryNearLimit", _LEVEL, _WARNING,
        "a GPU is nearly full and the allocator has to retry",
        "Longer sequences, a leak, fragmentation, or another process on the device.",
        "Lower the batch size or the sequence length, or set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True.",
        "Heuristic; a full GPU alone is normal (vLLM reserves it), retries are what costs time before the out-of-memory error.",
        conditions=(
            Comparison("gpu_memory_used", Statistic.VALUE, ">", 0.95),
            Comparison("allocation_retries", Statistic.VALUE, ">", 0.0),
        ),
    ),
    Rule(
        "HostMemoryGrowth", _LEVEL, _WARNING,
        "this process grows so fast that host memory will soon be used up",
        "A leak: histories, completions or tensors that are kept, or data loader workers that copy.",
        "Take a heap profile (tracemalloc, memray); look at what reward functions and callbacks keep.",
        _HEURISTIC,
        conditions=(
            Comparison("host_memory_exhaustion", Statistic.VALUE, "<", 3600.0),
            Comparison("host_memory_used", Statistic.VALUE, ">", 0.5),
        ),
    ),
    Rule(
        "ValueDivergence", _LEVEL, _WARNING,
        "the value function's loss rises instead of falling",
        "The value function cannot follow the returns: a learning rate that is too high for it, or rewards that changed scale.",
        "Lower the value function's learning rate or vf_coef; whiten or clip rewards; check the reward's scale.",
        _HEURISTIC,
        conditions=(
            Comparison("value_loss", Statistic.RATIO, ">", 1.3),
            Comparison("value_loss", Statistic.SHIFT, ">", 3.0),
        ),
        steps=5,
        inhibited_by=("NonFinite",),
    ),
    # Abrupt changes: three steps in a row tell a change from a single odd batch.
    Rule(
        "KLJump", _EVENT, _WARNING,
        "the KL divergence from the reference rose at once and stays there",
        "Weights were damaged or exchanged (a bad checkpoint, a broken weight sync), or an update was far too large.",
        "Compare gradient norm and learning rate at that step; go back to the checkpoint before it.",
        _HEURISTIC + " Single-step spikes that recover are common in healthy public runs, three in a row are not.",
        conditions=(
            Comparison("kl_per_token", Statistic.ZSCORE, ">", 6.0),
            Comparison("kl_per_token", Statistic.VALUE_RATIO, ">", 4.0),  # a KL that starts at 0 has to rise
        ),
        steps=3,
        inhibited_by=("NonFinite", "KLRunaway", "LearningRateJump"),
    ),
    Rule(
        "KLDrift", _LEVEL, _INFO,
        "the KL divergence from the reference rises faster than its own trend",
        "The policy began to move away: a reward that pays for odd text, or a learning rate that is a little too high.",
        "Watch it; compare reward and evaluation. KLRunaway pages if it goes on.",
        "CUSUM against the trend (Page 1954); its height is a heuristic. Information only: KL that starts at 0 has to rise.",
        conditions=(
            Comparison("kl_per_token", Statistic.CUSUM, ">", 10.0),
            Comparison("kl_per_token", Statistic.RATIO, ">", 1.3),
        ),
        steps=2,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "LearningRateJump", _EVENT, _WARNING,
        "the learning rate is several times what it was",
        "A scheduler that was restarted or resumed wrongly, or somebody changed it.",
        "Compare the schedule with the configuration; go back to the checkpoint before the jump.",
        "Heuristic: over 20 steps a linear warm-up does not even triple the rate against its own average.",
        conditions=(Comparison("learning_rate", Statistic.VALUE_RATIO, ">", 5.0),),
        steps=2,
    ),
    Rule(
        "LearningRateOutOfRange", _LEVEL, _WARNING,
        "the learning rate is above anything that language models are tuned with",
        "A misplaced exponent, a rate meant for another optimizer, or a schedule that multiplies it.",
        "Compare learning_rate and lr_scheduler_type with the configuration; usual are 1e-7 to 1e-3.",
        "Heuristic: published recipes use 1e-7 to 1e-4, LoRA up to 1e-3; 0.05 is 50 times that.",
        conditions=(Comparison("learning_rate", Statistic.VALUE, ">", 0.05),),
        steps=3,
    ),
    Rule(
        "OptimizerStepsSkipped", _LEVEL, _WARNING,
        "mixed-precision scaling skips most optimizer steps, so that hardly anything is learnt",
        "Gradients overflow in half precision at every loss scale: exploding gradients, or values that fp16 cannot hold.",
        "Use bf16; look at gradient norms and at the loss scale; go back if weights are damaged.",
        "Heuristic: at the start a scaler skips a few steps to find its scale; half of the latest 10 is no search.",
        conditions=(Comparison("optimizer_step_skipped", Statistic.AVERAGE, ">", 0.5),),
        steps=5,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "KLUnobserved", _LEVEL, _INFO,
        "nobody measures how far the policy is from the reference",
        "beta is 0 (GRPO's default), so that TRL loads no reference model and logs no KL; the rules about KL cannot fire.",
        "Nothing is wrong. With beta=1e-4 the KL is measured and hardly constrains; else watch entropy and evaluation.",
        "Definition: 20 steps with a reward and without a KL.",
        conditions=(Comparison("kl_unobserved", Statistic.VALUE, ">", 0.5),),
        steps=20,
    ),
    Rule(
        "LearningRateZero", _LEVEL, _WARNING,
        "the learning rate is zero, so that nothing is learnt",
        "The schedule has ended before the run (max_steps against epochs), or was resumed at the wrong step.",
        "Check lr_scheduler_type, warmup and the number of steps that the schedule was built for.",
        "Definition; 1e-12 is far below any rate in use.",
        conditions=(Comparison("learning_rate", Statistic.VALUE, "<", 1e-12),),
        steps=3,
    ),
    Rule(
        "GradientVanishing", _EVENT, _WARNING,
        "the gradient norm fell to almost nothing",
        "Most parameters are frozen or detached, adapters were disabled, or the loss lost its connection to the weights.",
        "Count the trainable parameters; check requires_grad, active adapters and the advantages.",
        _HEURISTIC,
        conditions=(
            Comparison("grad_norm", Statistic.VALUE_RATIO, "<", 0.03),
            Comparison("zero_advantage_groups", Statistic.BASELINE, "<", 0.15),  # else a dead batch explains it
        ),
        steps=3,
        inhibited_by=("NonFinite", "NoAdvantage", "ZeroAdvantageGroups"),
    ),
    Rule(
        "GradientLost", _EVENT, _WARNING,
        "the gradient norm fell to almost nothing (of a trainer without groups of completions)",
        "Most parameters are frozen or detached, adapters were disabled, or the loss lost its connection to the weights.",
        "Count the trainable parameters; check requires_grad, active adapters, label masks and the loss.",
        _HEURISTIC + " As GradientVanishing, which asks for the groups that SFT, DPO, PPO and reward models lack.",
        conditions=(Comparison("grad_norm", Statistic.VALUE_RATIO, "<", 0.03),),
        steps=3,
        absent=("zero_advantage_groups", "reward_std"),  # GRPO and the like: a batch without advantage has no gradient
        inhibited_by=("NonFinite", "PreferenceSaturated"),
    ),
    Rule(
        "ParametersNotChanging", _LEVEL, _WARNING,
        "the gradient is exactly zero, so that the weights cannot change",
        "All parameters are frozen, no group has an advantage, or all tokens are masked.",
        "Check requires_grad, the advantages, and masks (mask_truncated_completions masks a step in which all are cut off).",
        "Definition: no gradient, no update.",
        conditions=(Comparison("grad_norm", Statistic.VALUE, "<", 1e-12),),
        steps=10,
        inhibited_by=("NoAdvantage", "ZeroAdvantageGroups"),
    ),
    Rule(
        "EntropyFalling", _LEVEL, _WARNING,
        "the policy's entropy falls fast",
        "The policy is becoming deterministic: a high learning rate, no entropy bonus, or a reward that one answer satisfies.",
        "Add an entropy bonus, raise epsilon_high (clip-higher) or the temperature, before groups stop differing.",
        _HEURISTIC + " Clip-higher against it: DAPO (arXiv:2503.14476).",
        conditions=(
            Comparison("entropy", Statistic.RATIO, "<", 0.5),
            Comparison("entropy", Statistic.SHIFT, "<", -3.0),
        ),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway", "EntropyCollapse"),
    ),
    Rule(
        "EntropyDecline", _LEVEL, _INFO,
        "the policy's entropy is a fifth below what it was some 50 steps ago",
        "The policy becomes more certain: usual in the first steps, early narrowing later.",
        "Watch it beside reward and evaluation; EntropyFalling and EntropyCollapse warn if it goes on.",
        _HEURISTIC + " Entropy of healthy runs loses less than 14 % in that time.",
        conditions=(Comparison("entropy", Statistic.RATIO, "<", 0.82),),
        steps=3,
        inhibited_by=("NonFinite", "KLRunaway", "EntropyFalling", "EntropyCollapse"),
    ),
    Rule(
        "EntropyDrift", _LEVEL, _INFO,
        "the policy's entropy falls faster than its own trend",
        "The policy becomes more certain: it learns, or it narrows down too early.",
        "Compare with reward and evaluation; EntropyFalling and EntropyCollapse warn if it goes on.",
        "CUSUM against the trend (Page 1954); its height is a heuristic.",
        conditions=(
            Comparison("entropy", Statistic.CUSUM, "<", -20.0),
            Comparison("entropy", Statistic.RATIO, "<", 0.92),
        ),
        steps=3,
        inhibited_by=("NonFinite", "KLRunaway", "EntropyFalling", "EntropyCollapse"),
    ),
    Rule(
        "EntropyExplosion", _LEVEL, _WARNING,
        "the policy's entropy rises fast",
        "The policy turns towards noise: too large an entropy bonus, too high a learning rate, or damaged weights.",
        "Read completions; lower the entropy bonus or the learning rate, or go back to a checkpoint.",
        _HEURISTIC,
        conditions=(
            Comparison("entropy", Statistic.RATIO, ">", 2.0),
            Comparison("entropy", Statistic.SHIFT, ">", 6.0),
        ),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway", "KLJump"),
    ),
    Rule(
        "ClipFractionHigh", _LEVEL, _WARNING,
        "a large share of the tokens is clipped",
        "Updates are too large, or the data has become too far off policy.",
        "Lower the learning rate or num_iterations; check that log-probabilities are of the policy that sampled.",
        "Heuristic: PPO implementations report 0.05 to 0.2 for healthy runs.",
        conditions=(Comparison("clip_region_ratio", Statistic.AVERAGE, ">", 0.2),),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "SamplerMismatch", _LEVEL, _WARNING,
        "the sampler's log-probabilities differ from the trainer's",
        "vLLM serves stale or wrong weights, or precision and kernels differ between the two.",
        "Check the weight sync; compare dtypes; use importance sampling correction.",
        "Heuristic: bf16 kernels differ by about 0.01 nats a token, stale weights by far more.",
        conditions=(Comparison("sampling_logp_difference_mean", Statistic.AVERAGE, ">", 0.1),),
        steps=5,
        inhibited_by=("NonFinite",),
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
        inhibited_by=("NonFinite", "RewardDrop", "RewardCollapse"),
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
        steps=5,
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
    Rule(
        "SlowStep", _EVENT, _INFO,
        "a step took many times as long as steps of its kind do",
        "Evaluation or a checkpoint fell into it, a retry in a reward function, or a straggling rank.",
        "Open the step's trace; once is harmless.",
        _HEURISTIC,
        conditions=(
            Comparison("step_duration", Statistic.ZSCORE, ">", 10.0),
            Comparison("step_duration", Statistic.VALUE_RATIO, ">", 3.0),
        ),
        inhibited_by=("RewardFunctionSlow",),
    ),
    Rule(
        "StepTimeDrift", _LEVEL, _INFO,
        "steps become slower",
        "Completions grow, memory fragments, caches fill, or a service becomes slower.",
        "Compare the phases then and now; set it beside completion length.",
        _HEURISTIC,
        conditions=(
            Comparison("step_duration", Statistic.RATIO, ">", 1.15),
            Comparison("step_duration", Statistic.SHIFT, ">", 1.5),
        ),
        steps=10,
        inhibited_by=("RunStalled", "RewardFunctionSlow", "ThroughputRegression"),
    ),
    Rule(
        "CompletionLengthGrowth", _LEVEL, _INFO,
        "completions become longer, faster than usual",
        "The policy reasons longer, or found that length pays.",
        "Compare reward with length and with evaluation.",
        _HEURISTIC,
        conditions=(Comparison("completion_length", Statistic.RATIO, ">", 1.15),),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway", "CompletionLengthExplosion", "TruncationJump"),
    ),
    Rule(
        "CompletionLengthCollapse", _LEVEL, _WARNING,
        "completions have become far shorter than usual",
        "The policy stops early: an end token that pays, a length penalty that is too strong, or an empty answer that scores.",
        "Read completions; compare reward with length.",
        _HEURISTIC,
        conditions=(
            Comparison("completion_length", Statistic.RATIO, "<", 0.4),
            Comparison("completion_length", Statistic.SHIFT, "<", -4.0),
        ),
        steps=10,
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "TruncationJump", _EVENT, _WARNING,
        "from one step to the next most completions are cut off",
        "The end-of-sequence token cannot be produced any more (generation settings, tokenizer, stop tokens), or weights broke.",
        "Compare generation settings and eos_token_id before and after that step.",
        _HEURISTIC,
        conditions=(
            Comparison("truncated_ratio", Statistic.ZSCORE, ">", 10.0),
            Comparison("truncated_ratio", Statistic.VALUE, ">", 0.5),
        ),
        steps=3,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "TruncationRising", _LEVEL, _WARNING,
        "more and more completions are cut off at the length limit",
        "Completions grow towards max_completion_length.",
        "Raise the limit or penalise length before cut-off answers teach that long is wrong.",
        _HEURISTIC,
        conditions=(
            Comparison("truncated_ratio", Statistic.SHIFT, ">", 2.5),
            Comparison("truncated_ratio", Statistic.AVERAGE, ">", 0.15),
        ),
        steps=5,
        inhibited_by=("NonFinite", "KLRunaway", "TruncationHigh", "TruncationJump"),
    ),
    Rule(
        "ToolsFailing", _LEVEL, _WARNING,
        "most tool calls fail",
        "The tool or its service is down, or the policy writes calls that it does not understand.",
        "Call the tool by hand; read a failing completion.",
        _HEURISTIC,
        conditions=(Comparison("tool_failure_ratio", Statistic.AVERAGE, ">", 0.5),),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "RunFailed", _OUTSIDE, _CRITICAL,
        "training ended with an exception",
        "See the exception in the job's log and in the journal's last record.",
        "Mend the cause and resume from the last checkpoint.",
        "Definition: train() raised something other than an interruption.",
        promql=PromQL(
            'max without (instance) (last_over_time(rlhf_run_end_timestamp_seconds{outcome="failed"}[15m]))\n'
            "  >= on (run_id) group_left ()\n"
            "max by (run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[15m]))"
        ),
    ),
    Rule(
        "RunInterrupted", _OUTSIDE, _INFO,
        "training was interrupted before its end",
        "SIGTERM, Ctrl-C or a preemption: somebody or the scheduler stopped it.",
        "Nothing, if it was meant; else resume from the last checkpoint.",
        "Definition: the run said so as it ended.",
        promql=PromQL(
            'max without (instance) (last_over_time(rlhf_run_end_timestamp_seconds{outcome="interrupted"}[15m]))\n'
            "  >= on (run_id) group_left ()\n"
            "max by (run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[15m]))"
        ),
    ),
    Rule(
        FINISHED, _OUTSIDE, _INFO,
        "training has finished",
        "All steps were taken.",
        "Nothing. Tickets about this run's steps are silenced from now on.",
        "Definition: the run said so as it ended.",
        promql=PromQL(
            'max without (instance) (last_over_time(rlhf_run_end_timestamp_seconds{outcome="finished"}[15m]))\n'
            "  >= on (run_id) group_left ()\n"
            "max by (run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[15m]))"
        ),
    ),
    Rule(
        "RunStalled", _OUTSIDE, _CRITICAL,
        "no step has finished for several times the usual step time",
        "A hanging collective, a reward service that does not answer, a deadlock, or a stopped process.",
        "Look at the open phase (rlhf_phase_seconds_total grows in just one) and take stacks with py-spy dump.",
        "Heuristic: a multiple of the usual step, never below a floor; computed in process, so that slow runs do not page.",
        promql=PromQL(
            "(\n"
            "  time() - max without (instance) (last_over_time(rlhf_last_progress_timestamp_seconds[2h]))\n"
            "    > max without (instance) (last_over_time(rlhf_stall_threshold_seconds[2h]))\n"
            ")\n"
            "unless on (run_id) (\n"
            "  max by (run_id) (last_over_time(rlhf_run_end_timestamp_seconds[2h]))\n"
            "    >= max by (run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[2h]))\n"
            ")\n"
            f"unless on (run_id, rank) {_REPLACED}"
        ),
        inhibited_by=("RunFailed", "RunGone"),
    ),
    Rule(
        "RunGone", _OUTSIDE, _CRITICAL,
        "a training process vanished without saying how it ended",
        "Killed (out of memory, SIGKILL, node lost), or the network between it and Prometheus is down.",
        "Look at the node and the scheduler (dmesg, job state); resume from the last checkpoint.",
        "Definition: a rank's series ended and it recorded no end. That other ranks were then told to end says nothing "
        "of why, so each rank has to say so itself.",
        promql=PromQL(
            "max without (instance, rank) (\n"
            "  max without (instance) (last_over_time(rlhf_last_progress_timestamp_seconds[2h]))\n"
            "  unless on (run_id, rank) rlhf_last_progress_timestamp_seconds\n"
            "  unless on (run_id, rank) (\n"
            "    max by (run_id, rank) (last_over_time(rlhf_run_end_timestamp_seconds[2h]))\n"
            "      >= max by (run_id, rank) (last_over_time(rlhf_last_progress_timestamp_seconds[2h]))\n"
            "  )\n"
            f"  unless on (run_id, rank) {_REPLACED}\n"
            ")",
            observed='{{ with printf "'
            "max by (rank) (last_over_time(rlhf_last_progress_timestamp_seconds{run_id=%q}[2h])) "
            "unless on (rank) rlhf_last_progress_timestamp_seconds{run_id=%q} "
            "unless on (rank) last_over_time(rlhf_run_end_timestamp_seconds{run_id=%q}[2h])"
            '" $labels.run_id $labels.run_id $labels.run_id | query }}'
            'gone: {{ range sortByLabel "rank" . }}rank {{ .Labels.rank }} {{ end }}{{ end }}',
            hold=8,
        ),
    ),
    Rule(
        "Straggler", _OUTSIDE, _WARNING,
        "one rank keeps the others waiting",
        "A slow host or GPU (throttling, a neighbour), slow storage, a reward service that is far from this rank, or "
        "work that only this rank does.",
        "Compare rlhf_phase_seconds_total{scope=\"local\"} and the GPU's clocks of this rank with the others'; open a trace, "
        "which has the spans of all ranks of a step.",
        "Synchronous ranks tie in step time, so that only phases which wait for nobody tell who is slow. 0.1 s of each "
        "second above the median rank, for 5 minutes, is a heuristic: of two ranks the median lies half-way, so that one "
        "has to be slower by 0.2 s of each second.",
        promql=PromQL(
            f"{_LOCAL}\n"
            "  - on (run_id) group_left ()\n"
            f"quantile by (run_id) (0.5, {_LOCAL})\n"
            "  > 0.1",
            hold=20,
            observed='{{ with printf "topk(1, '
            "sum by (phase) (rate(rlhf_phase_seconds_total{run_id=%q, rank=%q, scope='local'}[5m])) - on (phase) "
            "quantile by (phase) (0.5, "
            "sum by (rank, phase) (rate(rlhf_phase_seconds_total{run_id=%q, scope='local'}[5m]))))"
            '" $labels.run_id $labels.rank $labels.run_id | query }}'
            'rank {{ $labels.rank }} spends {{ . | first | value | printf "%.2f" }} s of each second more than the '
            'median rank in {{ . | first | label "phase" }}{{ end }}',
        ),
        inhibited_by=("RunStalled", "RunGone"),
    ),
    Rule(
        "TelemetryFaults", _OUTSIDE, _WARNING,
        "telemetry failed somewhere; training went on, but this run is not fully observed",
        "A full disk, an endpoint that does not answer, a port that was taken, a defect of rlhf_otel, or a trainer that changed.",
        "See the label place and the warning in the job's log.",
        "Definition: a counted fault.",
        promql=PromQL(
            "sum without (instance) (\n"
            "  (increase(rlhf_telemetry_faults_total[10m]) > 0)\n"
            "    or (rlhf_telemetry_faults_total > 0 unless rlhf_telemetry_faults_total offset 10m)\n"
            ")"
        ),
    ),
    Rule(
        "EngineDisagreement", _OUTSIDE, _WARNING,
        "the in-process verdict and Prometheus' own disagree about a rule",
        "Rule files and package come from different versions, scrapes fail, or a threshold was tuned in one place only.",
        "Generate the rule files again with the version that trains, and reload Prometheus.",
        "Definition: the two engines compare the same number.",
        promql=PromQL(
            "max by (run_id) (\n"  # one alert a run, however many rules disagree: the label rule is the alert's own
            "max by (run_id, rule) (\n"  # the others have no verdict form
            '  ALERTS{alertname=~"RLHF.*", alertstate="firing", engine="level", severity="critical", rank=~"|0"}\n'
            ")\n"
            "  unless on (run_id, rule)\n"
            'max by (run_id, rule) (ALERTS{alertname=~"RLHF.*", alertstate="firing", engine="verdict"})\n'
            "  unless on (run_id)\n"  # which silences the others in process
            'ALERTS{alertname="RLHFNonFinite", alertstate="firing", engine="verdict"}\n'
            ")",
            hold=12,
        ),
        inhibited_by=("RunGone",),
    ),
    Rule(
        "Watchdog", _OUTSIDE, _INFO,
        "alerting works: this alert always fires",
        "Nothing is wrong. Its absence at the receiver means that Prometheus or Alertmanager is down.",
        "Route it to a dead-man switch.",
        "Definition.",
        promql=PromQL("vector(1)"),
    ),
    *CHECKPOINT_RULES,
    *COMPLETION_RULES,
    *PIPELINE_RULES,
    *RESOURCE_RULES,
    *TRAINER_RULES,
)  # fmt: skip

RULE_BY_NAME: Final[dict[str, Rule]] = {rule.name: rule for rule in RULES}


def compared(rules: Iterable[Rule]) -> frozenset[tuple[str, str]]:
    """Signals and statistics worth exposing: what Prometheus compares or a page shows, and the baseline beside what
    is relative to it. All statistics of all signals would be a third of the series that a run may have."""
    found = [
        condition
        for rule in rules
        for condition in (rule.conditions if rule.rule_class is RuleClass.LEVEL else rule.conditions[:1])
        if isinstance(condition, Comparison)
    ]
    absolute = Statistic.VALUE, Statistic.AVERAGE
    baselines = {(c.signal, Statistic.BASELINE.value) for c in found if c.statistic not in absolute}
    return frozenset(baselines | {(condition.signal, condition.statistic.value) for condition in found})


COMPARED: Final = compared(RULES)
