"""Rules of the policy's update: loss, gradients, learning rate, KL to the reference, entropy, clipping."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, Rule, RuleClass, Severity, Statistic

_EVENT, _LEVEL = RuleClass.EVENT, RuleClass.LEVEL
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
_HEURISTIC = "Heuristic; calibrated on real tiny runs and public logs."

POLICY_RULES: Final[tuple[Rule, ...]] = (
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
        inhibited_by=("NonFinite", "KLRunaway", "KLJump", "LearningRateJump"),
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
        "Heuristic: published recipes use 1e-7 to 1e-4, LoRA up to 1e-3; 0.05 is 50 times that. A rate that is too "
        "high below that, from the first steps on, shows in loss, KL and gradient norm alone: no usual rate is known yet.",
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
        "ParametersNotChanging", _LEVEL, _WARNING,
        "the gradient is exactly zero, so that the weights cannot change",
        "All parameters are frozen, no group has an advantage, or all tokens are masked.",
        "Check requires_grad, the advantages, and masks (mask_truncated_completions masks a step in which all are cut off).",
        "Definition: no gradient, no update.",
        conditions=(Comparison("grad_norm", Statistic.VALUE, "<", 1e-12),),
        steps=10,
        inhibited_by=("NonFinite", "NoAdvantage", "ZeroAdvantageGroups"),
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
        steps=2,
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
        inhibited_by=("NonFinite", "KLRunaway", "KLJump", "LearningRateJump"),
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
)  # fmt: skip
