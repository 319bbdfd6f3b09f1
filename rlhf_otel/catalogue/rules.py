"""Rules: what counts as wrong, declared once for both engines.

What a rule is, is in ``rule``; those of policy, rewards, completions, resources, pipelines, single trainers,
checkpoints and of processes that stall or vanish are in ``rules_*``; here are those of any run, and of its end.
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
from rlhf_otel.catalogue.rules_liveness import LIVENESS_RULES
from rlhf_otel.catalogue.rules_pipelines import PIPELINE_RULES
from rlhf_otel.catalogue.rules_policy import POLICY_RULES
from rlhf_otel.catalogue.rules_resources import RESOURCE_RULES
from rlhf_otel.catalogue.rules_reward_models import REWARD_MODEL_RULES
from rlhf_otel.catalogue.rules_rewards import REWARD_RULES
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

_LOCAL = 'sum without (instance, phase) (rate(rlhf_phase_seconds_total{scope="local"}[$range]))'

_WATCHED = tuple(signal.name for signal in SIGNALS if signal.watch_nonfinite)

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "NonFinite", _EVENT, _CRITICAL,
        "a value that training rests on is NaN or infinite",
        "A loss, gradient, reward, log-probability, KL, entropy or weight: overflow in half precision, a division by "
        "zero in a reward function, corrupt data, or a learning rate that made the weights explode. The trainer's own logs can hide it: NaN losses are filtered and averages drop NaN.",
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
    *POLICY_RULES,
    *REWARD_RULES,
    Rule(
        "ThroughputRegression", _LEVEL, _WARNING,
        "the run processes less than half of its usual tokens per second",
        "A slow reward function or service, a throttled or shared GPU, slow storage, or a straggling rank.",
        "Compare the phases before and after (rlhf_phase_seconds_total, slow-step traces).",
        _HEURISTIC,
        conditions=(Comparison("tokens_per_second", Statistic.RATIO, "<", 0.5),),
        steps=20,
        inhibited_by=("RunStalled", "RewardFunctionSlow", "RunFailed", "RunGone"),
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
        inhibited_by=("RunStalled", "RewardFunctionSlow", "ThroughputRegression", "RunFailed", "RunGone"),
    ),
    *LIVENESS_RULES,
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
        inhibited_by=("RunStalled", "RunGone", "RunFailed"),
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
        "Definition: the two engines compare the same number. Only a level without its verdict is told: a verdict without "
        "its level is usual, since verdicts are latched and a scrape can miss the breach.",
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
        "TargetsMissing", _OUTSIDE, _WARNING,
        "Prometheus does not scrape all ranks of this run",
        "A network policy or firewall, an endpoint that listens on loopback alone, a port that was taken, a list of "
        "targets that was not read again, or a scrape that exceeds its limits.",
        "See Prometheus' page of targets for the error; `rlhf-otel doctor --run-id RUN` checks each leg.",
        "Definition: a registered target (file_sd) that does not answer, or fewer ranks than rank 0 says there are, for 5 "
        "minutes.",
        promql=PromQL(
            "count without (instance, rank, job) (up{run_id!=\"\"} == 0)\n"
            "or on (run_id)\n"
            "count by (run_id) (\n"
            '  max by (run_id, world_size) (rlhf_run_info{rank="0"})\n'
            "  unless on (run_id, world_size) count_values by (run_id) (\n"
            '    "world_size", count by (run_id) (max by (run_id, rank) '
            "(last_over_time(rlhf_last_progress_timestamp_seconds[$window])))\n"
            "  )\n"
            ")",
            hold=20,
            observed='{{ with printf "count(max by (rank) (rlhf_last_progress_timestamp_seconds{run_id=%q}))" '
            "$labels.run_id | query }}{{ . | first | value }}{{ else }}0{{ end }} ranks are scraped",
        ),
        inhibited_by=("RunGone", "RunFailed", "RunStalled"),
    ),
    Rule(
        "Drill", _OUTSIDE, _INFO,
        "this is a drill, nothing is wrong",
        "Somebody ran `rlhf-otel drill`, to see whether a page arrives.",
        "Nothing. Tell whoever ran it that the page has arrived.",
        "Definition: the series that the drill exposes for as long as it lasts. Its severity is that of the route which is tried.",
        promql=PromQL('max without (instance) (rlhf_anomaly_active{rule="Drill"}) == 1'),
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
    *REWARD_MODEL_RULES,
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
