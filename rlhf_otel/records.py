"""What flows through the program: from sources through detection to exporters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from rlhf_otel.catalogue.rules import COMPARED, Severity
from rlhf_otel.catalogue.spans import Outcome, StepKind

make_tuple: Final = tuple.__new__
"""Makes a named tuple, of its class and all of its fields, in a third of the time that calling the class takes."""


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Who is running; constant for an attempt."""

    run_id: str
    attempt: int = 1
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    algorithm: str = ""
    model: str = ""
    run_name: str = ""
    team: str = ""
    owner: str = ""
    cluster: str = ""
    agreed: bool = True
    """Whether every rank knows run id and attempt by itself; else rank 0 decides and the others ask."""
    collective_phases: tuple[str, ...] = ()
    """Phases in which the ranks of this run wait for each other, beside those of the catalogue."""


class PhaseInterval(NamedTuple):
    """One finished phase. Times are nanoseconds of ``time.perf_counter_ns``."""

    phase: str
    """Name in the catalogue."""
    detail: str
    """The host's name for it, such as the reward function; may be empty."""
    start_ns: int
    end_ns: int
    parent: int
    """Index of the enclosing phase among the step's phases, -1 for the step itself."""
    exclusive_ns: int
    """Duration without the phases inside it that ran on the same thread."""
    failed: bool


class DeviceTimes:
    """Time that phases of a step took on the device, from the moment at which it got to their begin to that of their end.
    Filled in by the training thread, once the device is through."""

    __slots__ = ("known", "seconds")

    def __init__(self) -> None:
        self.known = False
        """Whether the times are in, or given up."""
        self.seconds: Mapping[tuple[str, str, int], float] = {}
        """Phase, detail and start to seconds, as in a `PhaseInterval`."""


class Rollouts(NamedTuple):
    """Samples that an asynchronous trainer trained on, of one policy."""

    made_at: int
    """Step whose update made the weights that sampled them."""
    samples: int
    inherited: bool = False
    """Whether the attempt began with these weights."""


class Histogram(NamedTuple):
    """Numbers counted in bins of equal width between the lowest and the highest of them."""

    low: float
    high: float
    counts: list[int]


@dataclass(slots=True)
class StepRecord:
    """One training step, from the end of the step before it to its own end."""

    step: int
    epoch: float
    kind: StepKind
    start_ns: int
    """``time.perf_counter_ns`` at its start."""
    end_ns: int
    time_ns: int
    """Unix time of its end, in nanoseconds."""
    values: dict[str, float] = field(default_factory=dict)
    """Signal name to value; a value may be NaN or infinite."""
    reward_functions: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Reward function to mean and standard deviation."""
    unmapped: dict[str, float] = field(default_factory=dict)
    """Keys that the catalogue does not know."""
    nonfinite: dict[str, int] = field(default_factory=dict)
    """Signal name to the number of NaN or infinite values in this step."""
    details: dict[str, str] = field(default_factory=dict)
    """Signal name to what else is known about it, for people."""
    histograms: dict[str, Histogram] = field(default_factory=dict)
    """Reward function to its rewards of the generation."""
    phases: list[PhaseInterval] = field(default_factory=list)
    device: DeviceTimes | None = None
    """Of those phases; None where no device has a clock."""
    phases_left_out: int = 0
    """Phases that were too many to be kept; their time is in the totals."""
    lag: dict[str, int] = field(default_factory=dict)
    """Signal name to the number of steps that passed before a device could be read; absent means none."""
    profile: str = ""
    """Where the torch profile is that covers it; mostly there is none."""
    rollouts: Sequence[Rollouts] = ()
    """What an asynchronous trainer trained on, the newest weights first; empty elsewhere."""
    update_lost: bool = False
    """Whether its update was skipped by mixed-precision scaling, or dropped by the guard."""
    truncated_tokens: float = 0.0
    """Tokens of completions that were cut off."""
    tokens: float = 0.0
    """Prompt and completion tokens, of all ranks, that the step generated or trained on; 0 where unknown."""
    rollout_s: float = 0.0
    """Seconds that it spent on sampling and scoring completions."""
    absorbed_s: float | None = None
    """Seconds of the attempt's evaluations and checkpoints until its end; None where they are not known."""
    wasted: dict[str, float] = field(default_factory=dict)
    """Reason (``catalogue.spans.Waste``) to seconds of it that were in vain; only those above 0."""

    @property
    def duration_s(self) -> float:
        """Wall time of the step in seconds."""
        return (self.end_ns - self.start_ns) / 1e9


class Statistics(NamedTuple):
    """Streaming statistics of a signal at a step; None where they are not known yet."""

    average: float
    baseline: float | None
    zscore: float | None
    ratio: float | None
    shift: float | None
    reference_ratio: float | None
    cusum: float | None = None


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A rule that fires in process."""

    rule: str
    severity: Severity
    signal: str
    value: float
    baseline: float | None
    threshold: float | None
    statistic: str
    """What of the signal was compared with the threshold."""
    observed: float | None
    """That statistic's value."""
    first_step: int
    step: int
    """Step at which the rule fired: ``first_step`` plus the steps that it waits."""
    time_ns: int
    cause: str
    remedy: str
    detail: str = ""
    """What else is known, such as the reward function that returned NaN."""
    actions: tuple[str, ...] = ()
    """What is done about it."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run."""

    outcome: Outcome
    time_ns: int
    step: int
    reason: str = ""


class HistogramState(NamedTuple):
    """Step durations: count per bucket (not cumulative, the last is the overflow), and sum in seconds."""

    counts: tuple[int, ...]
    total: float
    exemplar: tuple[float, str, float] | None = None
    """Duration, trace id and Unix time of the last traced step."""


class Health(NamedTuple):
    """How well a run is, by ``detection.health``; what is unknown is absent."""

    overall: float | None = None
    """0 to 1; the worst aspect dominates. None while no aspect is known."""
    aspects: Mapping[str, float] = {}
    """Aspect to its health, 0 to 1."""
    coverage: float = 0.0
    """Share of the rules that count which could be judged, 0 to 1."""
    coverages: Mapping[str, float] = {}
    """The same by aspect, of aspects that are unknown too."""


class Snapshot(NamedTuple):
    """Everything that one step left behind; immutable, so that a scrape shows values of a single step."""

    step: int = 0
    planned_steps: int = 0
    time_s: float = 0.0
    """Unix time of the last finished step."""
    started_s: float = 0.0
    values: Mapping[str, float | None] = {}
    """Latest value of each signal; None where it is absent now."""
    statistics: Mapping[str, Statistics] = {}
    reward_functions: Mapping[str, tuple[float, float]] = {}
    unmapped: Mapping[str, float] = {}
    evaluation: Mapping[str, float] = {}
    nonfinite: Mapping[str, int] = {}
    health: Health = Health()
    compared: frozenset[tuple[str, str]] = COMPARED
    """Signals and statistics that the run's rules compare, and that are exposed therefore."""
    verdicts: tuple[Any, ...] = ()
    """A ``detection.detector.Verdict`` per rule."""
    streaks: Mapping[str, int] = {}
    """Rule to the steps in a row that it has been in breach."""
    anomaly_traces: Mapping[str, str] = {}
    """Rule to the trace id that its page leads to."""
    durations: Mapping[str, HistogramState] = {}
    tokens: float = 0.0
    truncated_tokens: float = 0.0
    wasted: Mapping[str, float] = {}
    """Reason to seconds spent in vain so far; only those above 0."""
    skipped_steps: int = 0
    evaluations: int = 0
    checkpoints: int = 0
    last_checkpoint: tuple[int, float] | None = None
    """Step and Unix time."""
    saved: tuple[tuple[int, float], ...] = ()
    """Steps and Unix times of the latest checkpoints, the last one included."""
    stall_threshold_s: float = 0.0
    """How long the next step may take without evaluations and checkpoints."""
    absorbed_s: float = 0.0
    """What those have taken in this attempt until the last step's end."""
    dropped: Mapping[str, int] = {}
    """Label to the number of series left out."""
    telemetry_s: float = 0.0


class TelemetryCounts(NamedTuple):
    """What the telemetry itself cost and lost, read at scrape time."""

    queued: int = 0
    dropped: Mapping[str, int] = {}
    journal_bytes: int = 0
    spans_exported: int = 0
    kept_steps: Mapping[str, int] = {}
    """Reason to the steps that were kept as traces."""
    scrapes: int = 0
    scrape_s: float = 0.0


class OpenPhase(NamedTuple):
    """Where the training thread is now."""

    phase: str
    """Name in the catalogue, as people are told it."""
    seconds: float
    """Time since it entered it."""


class RunView(NamedTuple):
    """A run as a scrape sees it: the last step's snapshot, and what changes between steps."""

    identity: RunIdentity
    snapshot: Snapshot
    trl_version: str = ""
    phase_seconds: Mapping[str, float] = {}
    phase_counts: Mapping[str, int] = {}
    function_seconds: Mapping[str, float] = {}
    function_none: Mapping[str, int] = {}
    function_errors: Mapping[str, int] = {}
    function_nonfinite: Mapping[str, int] = {}
    system: Any = None
    """A ``sources.system.SystemSample``, or None."""
    telemetry: TelemetryCounts = TelemetryCounts()
    end: RunEnd | None = None
    actions: Mapping[tuple[str, str], int] = {}
    """Kind and outcome to the number of such actions."""
    outlived: bool = False
    """It has ended, and another run has begun since: only what concerns the run as such is exposed."""
    checkpoint: Any = None
    """The last ``checkpoints.process.Analysis`` that succeeded, or None."""
    checkpoint_analyses: Mapping[str, int] = {}
    """How many there were, by outcome."""
    rewards: Mapping[str, Any] = {}
    """Reward to the latest ``reward_model.judgement.Watched``; empty without a monitor."""
    agreement: Mapping[tuple[str, str], float] = {}
    """Pairs of watched rewards to the rank correlation of their scores."""
    rewards_dropped: int = 0
    """Rewards that are not watched, being too many."""
    device_seconds: Mapping[str, float] = {}
    """Phase to seconds on the device; empty where none has a clock."""
    updates_dropped: int | None = None
    """By the guard; None without one."""
    open_phase: OpenPhase | None = None
    """None once the run has ended."""
    stall_threshold_s: float | None = None
    """How long the step in progress may take as it is now; None where nobody watches."""
    stalls: int = 0
