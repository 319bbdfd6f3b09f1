"""Rules: what counts as wrong, declared once for both engines.

A rule's conditions compare exported numbers with thresholds. In process the detector evaluates them at every
step; in Prometheus the compiled expression compares the same gauges. See ``detection/promql.py``.

Severity means action: *critical* pages (at most :data:`MAX_CRITICAL_RULES` rules), *warning* is a ticket,
*info* an annotation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

MAX_CRITICAL_RULES: Final = 8
LATCH_SECONDS: Final = 120.0
"""An anomaly stays active this long after its last breach, so that a 15 s scrape cannot miss it."""
LATCH_STEPS: Final = 20
"""... and until this many clean steps."""


class Severity(StrEnum):
    """What a person does about it."""

    CRITICAL = "critical"
    WARNING = "warning"
    INFO = "info"


class RuleClass(StrEnum):
    """Where the verdict is made.

    ``event``: in process, at the step; Prometheus alerts on the latched verdict and on counters.
    ``level``: both engines compare the exported gauge. ``outside``: Prometheus alone, about a process
    that may no longer be able to speak for itself.
    """

    EVENT = "event"
    LEVEL = "level"
    OUTSIDE = "outside"


class Statistic(StrEnum):
    """What of a signal is compared; see ``detection/baselines.py`` for the definitions."""

    VALUE = "value"
    AVERAGE = "average"
    ZSCORE = "zscore"
    RATIO = "baseline_ratio"
    SHIFT = "shift"
    REFERENCE_RATIO = "reference_ratio"


@dataclass(frozen=True, slots=True)
class Comparison:
    """``statistic(signal) op threshold``."""

    signal: str
    statistic: Statistic
    op: Literal[">", "<"]
    threshold: float


@dataclass(frozen=True, slots=True)
class NonFinite:
    """A NaN or infinity of any of ``signals`` in the step."""

    signals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromQL:
    """An expression for Prometheus alone. ``$window`` stands for 8 scrape intervals (2 minutes at 15 s).

    ``hold`` is the alert's ``for``, in scrape intervals.
    """

    expression: str
    hold: int = 0


Condition = Comparison | NonFinite


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which a run can go wrong."""

    name: str
    rule_class: RuleClass
    severity: Severity
    summary: str
    """One sentence for the page: what broke. ``{signal}`` values are added by the alert's annotations."""
    cause: str
    remedy: str
    source: str
    """Where the threshold comes from."""
    conditions: tuple[Condition, ...] = ()
    """All must hold."""
    steps: int = 1
    """Consecutive steps in breach before the rule fires in process."""
    after_step: int = 0
    promql: PromQL | None = None
    """For ``outside`` rules the expression; for ``event`` rules a second one, on counters."""
    inhibited_by: tuple[str, ...] = ()
    """Rules whose firing explains this one away."""

    @property
    def alert(self) -> str:
        """Name of the alert in Prometheus."""
        return f"RLHF{self.name}"

    @property
    def signal(self) -> str:
        """The signal that the rule is about; empty for rules about the process."""
        if not self.conditions:
            return ""
        first = self.conditions[0]
        return first.signals[0] if isinstance(first, NonFinite) else first.signal


_EVENT, _LEVEL, _OUTSIDE = RuleClass.EVENT, RuleClass.LEVEL, RuleClass.OUTSIDE
_CRITICAL, _WARNING, _INFO = Severity.CRITICAL, Severity.WARNING, Severity.INFO
_HEURISTIC = "Heuristic; calibrated on real tiny runs and public logs."

RULES: Final[tuple[Rule, ...]] = (
    Rule(
        "NonFinite", _EVENT, _CRITICAL,
        "a loss, gradient, reward, KL or entropy is NaN or infinite",
        "Overflow in half precision, a division by zero in a reward function, corrupt data, or a learning rate that "
        "made the weights explode. The trainer's own logs can hide it: NaN losses are filtered and averages drop NaN.",
        "Look which signal was first. Reward: mend that reward function. Loss or gradient: go back to the last good "
        "checkpoint with a lower learning rate or bf16; the weights may already be damaged.",
        "Definition: no finite arithmetic can use the value.",
        conditions=(NonFinite(("loss", "grad_norm", "reward", "kl_per_token", "entropy")),),
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
        "KLSpike", _EVENT, _WARNING,
        "the KL divergence from the reference jumped far out of its usual range",
        "A few completions that the reference finds nearly impossible, or a too large update.",
        "Harmless if it falls back at once. Otherwise raise beta or lower the learning rate.",
        _HEURISTIC,
        conditions=(Comparison("kl_per_token", Statistic.ZSCORE, ">", 16.0),),
        inhibited_by=("NonFinite", "KLRunaway"),
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
        conditions=(Comparison("reward", Statistic.SHIFT, "<", -4.0),),
        steps=10,
        inhibited_by=("NonFinite",),
    ),
    Rule(
        "ZeroAdvantageGroups", _LEVEL, _WARNING,
        "nearly all groups have no advantage, so that the steps carry no gradient",
        "Every completion of a group gets the same reward: the reward is constant, saturated or too coarse, the prompts "
        "are all too easy or too hard, or the policy became deterministic.",
        "Check that rewards differ within a group; filter prompts that are always right or always wrong; refine the reward.",
        "DAPO (arXiv:2503.14476) filters such groups; the level of 90 % is a heuristic.",
        conditions=(Comparison("zero_advantage_groups", Statistic.AVERAGE, ">", 0.9),),
        steps=10,
        inhibited_by=("NonFinite",),
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
        inhibited_by=("NonFinite", "KLRunaway"),
    ),
    Rule(
        "ThroughputRegression", _LEVEL, _WARNING,
        "the run processes far fewer tokens per second than it usually does",
        "A slow reward function or service, a throttled or shared GPU, slow storage, or a straggling rank.",
        "Compare the phases before and after (rlhf_phase_seconds_total, slow-step traces).",
        _HEURISTIC,
        conditions=(Comparison("tokens_per_second", Statistic.RATIO, "<", 0.6),),
        steps=10,
        inhibited_by=("RunStalled",),
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
            ")"
        ),
        inhibited_by=("RunFailed", "RunGone"),
    ),
    Rule(
        "RunGone", _OUTSIDE, _CRITICAL,
        "the training process vanished without saying how it ended",
        "Killed (out of memory, SIGKILL, node lost), or the network between it and Prometheus is down.",
        "Look at the node and the scheduler (dmesg, job state); resume from the last checkpoint.",
        "Definition: its series ended and no end was recorded.",
        promql=PromQL(
            'max without (instance, rank) (last_over_time(rlhf_last_progress_timestamp_seconds{rank="0"}[2h]))\n'
            '  unless on (run_id) rlhf_last_progress_timestamp_seconds{rank="0"}\n'
            "  unless on (run_id) (\n"
            "    max by (run_id) (last_over_time(rlhf_run_end_timestamp_seconds[2h]))\n"
            "      >= max by (run_id) (last_over_time(rlhf_last_progress_timestamp_seconds[2h]))\n"
            "  )",
            hold=8,
        ),
    ),
    Rule(
        "TelemetryFaults", _OUTSIDE, _WARNING,
        "telemetry failed somewhere; training went on, but this run is not fully observed",
        "A full disk, an endpoint that does not answer, a defect of rlhf_otel, or a trainer that changed.",
        "See the label place and the warning in the job's log, which has the traceback.",
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
            'max by (run_id, rule) (ALERTS{alertname=~"RLHF.*", alertstate="firing", engine="level"})\n'
            "  unless on (run_id, rule)\n"
            'max by (run_id, rule) (ALERTS{alertname=~"RLHF.*", alertstate="firing", engine="verdict"})\n'
            "  unless on (run_id)\n"  # which silences the others in process
            'ALERTS{alertname="RLHFNonFinite", alertstate="firing", engine="verdict"}',
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
)  # fmt: skip

RULE_BY_NAME: Final[dict[str, Rule]] = {rule.name: rule for rule in RULES}
