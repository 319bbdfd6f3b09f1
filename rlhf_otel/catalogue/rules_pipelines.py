"""Rules about what feeds training: samplers, weight sync, queues of asynchronous trainers, checkpoints."""

from __future__ import annotations

from typing import Final

from rlhf_otel.catalogue.rule import Comparison, PromQL, Rule, RuleClass, Severity, Statistic

_EVENT, _LEVEL = RuleClass.EVENT, RuleClass.LEVEL
_WARNING, _INFO = Severity.WARNING, Severity.INFO

PIPELINE_RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "WeightSyncSlow", _EVENT, _WARNING,
        "sending weights to the sampler takes several times as long as usual",
        "A slow or shared network, a sampler that is busy, or a transfer that was tried again.",
        "Compare rlhf_phase_seconds_total{phase=\"weight_sync\"} with the network's load; look at the sampler's log.",
        "Heuristic.",
        conditions=(
            Comparison("weight_sync_time", Statistic.VALUE_RATIO, ">", 2.5),
            Comparison("weight_sync_time", Statistic.ZSCORE, ">", 4.0),
        ),
        steps=3,
    ),
    Rule(
        "WeightSyncFailing", _EVENT, _WARNING,
        "sending weights to the sampler failed",
        "The sampler died, was restarted or is out of memory, or the network between them broke; unless training ends, "
        "it goes on sampling from older weights.",
        "Look at the exception in the job's log and at the sampler's; start the sampler again and resume from a checkpoint.",
        "Definition: the transfer raised.",
        conditions=(Comparison("weight_sync_failures", Statistic.VALUE, ">", 0.0),),
    ),
    Rule(
        "SamplerRetrying", _EVENT, _WARNING,
        "requests to the sampling server fail and are tried again",
        "The server is overloaded, restarting, or unreachable for a while.",
        "Look at the server's log and load; raise its time limit or add replicas.",
        "Heuristic: five steps in a row are no hiccup.",
        conditions=(Comparison("sampler_retries", Statistic.VALUE, ">", 0.0),),
        steps=5,
    ),
    Rule(
        "SamplesStale", _LEVEL, _WARNING,
        "training uses completions of much older weights than usual",
        "Sampling falls behind training: a slow sampler, long completions, or weights that do not arrive.",
        "Compare sampling and training throughput; lower the queue's size; check the weight sync.",
        "Heuristic.",
        conditions=(
            Comparison("staleness", Statistic.AVERAGE, ">", 2.0),
            Comparison("staleness", Statistic.RATIO, ">", 2.0),
        ),
        steps=10,
    ),
    Rule(
        "StaleSamplesDropped", _EVENT, _WARNING,
        "completions are thrown away because they are too old",
        "Sampling is slower than training by more than the allowed staleness; the work on them is lost.",
        "Raise the allowed staleness or the sampler's share of the hardware; shorten completions.",
        "Heuristic: five steps in a row.",
        conditions=(Comparison("stale_samples_dropped", Statistic.VALUE, ">", 0.0),),
        steps=5,
    ),
    Rule(
        "RolloutWaitHigh", _LEVEL, _WARNING,
        "training waits for completions far longer than usual",
        "The sampler or the reward service has become slower, or completions longer.",
        "Compare rlhf_rollout_scoring_seconds with the sampler's load; look at completion length.",
        "Heuristic.",
        conditions=(
            Comparison("rollout_wait", Statistic.RATIO, ">", 2.0),
            Comparison("rollout_wait", Statistic.SHIFT, ">", 3.0),
        ),
        steps=10,
        inhibited_by=("RunStalled", "WeightSyncSlow", "RunFailed", "RunGone"),
    ),
    Rule(
        "RolloutBackpressure", _EVENT, _INFO,
        "the sampler waits because training does not take its completions",
        "Training is the slower side; sampled completions grow old in the queue.",
        "Give training more of the hardware, or sample less ahead.",
        "Heuristic: ten steps in a row.",
        conditions=(Comparison("rollout_backpressure", Statistic.VALUE, ">", 0.0),),
        steps=10,
    ),
    Rule(
        "RatioToSamplerBlowUp", _LEVEL, _WARNING,
        "the policy has moved far from the one that sampled",
        "Completions are too old, weights did not reach the sampler, or updates are too large.",
        "Check the weight sync and staleness; lower the learning rate.",
        "Heuristic: importance weights are clipped at 1.2 to 2 in use.",
        conditions=(Comparison("ratio_to_sampler", Statistic.AVERAGE, ">", 2.0),),
        steps=5,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "ImportanceWeightHigh", _LEVEL, _WARNING,
        "the trainer finds completions far more likely than their sampler did",
        "The sampler serves older or wrong weights, or precision, temperature and kernels differ.",
        "Check the weight sync; compare dtypes and sampling parameters; see rlhf_sampling_logp_difference_mean_nats.",
        "Heuristic: the mean is near 1 while the two agree; TRL clips single weights at 3.",
        conditions=(Comparison("importance_weight_mean", Statistic.AVERAGE, ">", 2.0),),
        steps=5,
        inhibited_by=("NonFinite", "SamplerMismatch"),
    ),
    Rule(
        "ImportanceWeightLow", _LEVEL, _INFO,
        "most of what was sampled hardly counts in training",
        "The sampler serves older or wrong weights, so that the trainer finds its completions unlikely; or their weights "
        "are beyond the limits, for which TRL masks them.",
        "Check the weight sync; compare dtypes and sampling parameters; look at vllm_importance_sampling_mode and its limits.",
        "Heuristic: the mean is near 1 while the two agree; below 0.5 half of the signal is lost. A public run that learns has "
        "it throughout, hence information only.",
        conditions=(Comparison("importance_weight_mean", Statistic.AVERAGE, "<", 0.5),),
        steps=5,
        inhibited_by=("NonFinite", "SamplerMismatch"),
    ),
    Rule(
        "RewardFunctionFailing", _EVENT, _WARNING,
        "a reward function raises exceptions",
        "Its service is down, or it cannot parse what the policy writes.",
        "See the label reward_function and the exception in the job's log.",
        "Definition: a counted exception. Prometheus sees all ranks, the verdict in process the first one's.",
        conditions=(Comparison("reward_function_errors", Statistic.VALUE, ">", 0.0),),
        promql=PromQL(
            "sum without (instance, rank) (\n"
            "  (increase(rlhf_reward_function_errors_total[10m]) > 0)\n"
            "    or (rlhf_reward_function_errors_total > 0 unless rlhf_reward_function_errors_total offset 10m)\n"
            ")"
        ),
    ),
    Rule(
        "CheckpointOverdue", _LEVEL, _WARNING,
        "no checkpoint has been written for twice the planned interval",
        "Saving fails or was switched off, or the checkpoint directory was lost; a failure now costs all steps since the last.",
        "Look at the output directory and its free space; save by hand.",
        "Definition: save_steps says when the next was due; the second one is missing too.",
        conditions=(Comparison("checkpoint_age", Statistic.VALUE, ">", 2.0),),
        steps=2,
    ),
)  # fmt: skip
