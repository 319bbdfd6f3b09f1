"""Runs as a scrape sees them, built by the real assembler and pipeline from what a trainer would have noted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rlhf_otel.assembly import Assembler, RawStep
from rlhf_otel.catalogue.rules import RULES
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import ON_THE_DEVICE, PHASES, Outcome, Waste
from rlhf_otel.checkpoints.process import Analysis
from rlhf_otel.detection.detector import Verdict
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import (
    Health,
    HistogramState,
    OpenPhase,
    RunEnd,
    RunIdentity,
    RunView,
    Snapshot,
    Statistics,
)
from rlhf_otel.reward_model import RewardModelMonitor
from rlhf_otel.reward_model.judgement import Judgement
from rlhf_otel.settings import Settings
from rlhf_otel.sources.gpu import THROTTLE_REASONS, GpuSample
from rlhf_otel.sources.groups import Generation
from rlhf_otel.sources.host import HostSample
from rlhf_otel.sources.phases import PhaseRecorder
from rlhf_otel.sources.samples import Samples
from rlhf_otel.sources.step_metrics import StepMetrics
from rlhf_otel.sources.system import SystemSample
from rlhf_otel.sources.torch_memory import TorchMemorySample
from rlhf_otel.sources.trl_keys import family_of
from rlhf_otel.sources.trl_keys.common import COMMON
from rlhf_otel.sources.trl_keys.group_policy import RLOO
from rlhf_otel.sources.trl_logs import map_logs

NOW_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000

SYSTEM = SystemSample(
    NOW_NS,
    (GpuSample("0", 60, 80, 0.9, 70.0, 400.0, 1.9e9, 2.6e9, dict.fromkeys(THROTTLE_REASONS, False), 0, 0),),
    (TorchMemorySample("0", 50, 60, 55, 0.1, 0, 0),),
    HostSample(10, 1.0, 8, 30, 50, 100, 0.5),
)
"""One GPU with all that NVML tells, torch's allocator on it, and the host."""


def _watched() -> Judgement:
    """Two rewards of which all is known that can be."""
    monitor = RewardModelMonitor()
    texts = [f"text {number} " * (number % 7 + 1) for number in range(64)]
    for name, sign in (("a_function", 1.0), ("another", -1.0)):
        monitor.set_reference(name, [float(number % 5) for number in range(64)])
        scores = [sign * (number % 11) for number in range(64)]
        monitor.observe(name, scores, texts, 0.5)
        monitor.rescored(name, scores, scores)
        monitor.failed(name, TimeoutError())
        monitor.calibrate(name, [1.0, 2.0, 0.5], [0.0, 2.5, 0.1])
    return monitor.judge_all()


WATCHED = _watched()
NEVER_ENDED = {"values", "update", "telemetry", "other"}
"""Phases of PPO alone, and those that are sums without an end."""
KEPT = {"first": 1, "one_in_k": 1, "slow": 1, "anomaly": 1, "before_anomaly": 3, "profiled": 0, "failed": 0}
"""Steps kept as traces by a run in progress that was not profiled."""
REWARDS = [0.1, 0.2, 0.3, 0.4]
COMPLETIONS = ["one two three four five", "a b c d e f", "", "x x x x x x x"]

ANALYSIS = Analysis(
    2, "checkpoint-2", 0.6, counts={"swollen-layer": 1, "learning-rate": 1, "state-missing": 2}
)
"""A checkpoint with some findings."""

SYSTEM_SIGNALS = {
    "gpu_memory_used": 0.75,
    "allocation_retries": 0.0,
    "host_memory_used": 0.5,
    "host_memory_exhaustion": 9e4,
    "checkpoint_health": 0.6,
    "weights": 0.0,
    "checkpoint_drift": 1e-3,
    "checkpoint_reference_drift": 1e-2,
}


def raw_step(step: int, **changes: Any) -> RawStep:
    """What the training thread notes of a step of a second that measured nothing; ``changes`` are fields."""
    nothing = RawStep(
        step=step,
        epoch=None,
        start_ns=step * SECOND_NS,
        end_ns=(step + 1) * SECOND_NS,
        time_ns=NOW_NS + step * SECOND_NS,
        held=([], []),
        readings=[],
        learning_rate=None,
        generation=None,
        nonfinite_rewards={},
        phases=0,
        skipped_steps=0,
        telemetry_ns=0,
    )
    return nothing._replace(**changes)


def keys_of(algorithm: str) -> Iterable[str]:
    """The keys that a run can log at once: RLOO's of today, and not those that its table has for old logs."""
    return {**COMMON, **RLOO} if algorithm == "rloo" else family_of(algorithm).keys


def complete_step(
    step: int, functions: list[str], generates: bool, recorder: PhaseRecorder, algorithm: str = "grpo"
) -> RawStep:
    """A step with every key that the algorithm knows, on a GPU, with reward functions that vary."""
    for name in functions if generates else []:
        recorder.end(recorder.begin("reward_function", name))
    value = 0.05 + 0.001 * (step % 3)
    logged = dict.fromkeys(keys_of(algorithm), value)
    logged["sampling/importance_sampling_ratio/mean"] = 1.0
    if not generates:
        logged = {key: value for key, value in logged.items() if key in ("loss", "kl", "entropy")}
    else:
        logged |= {f"rewards/{name}/mean": value for name in functions}
        logged |= {f"rewards/{name}/std": 0.1 for name in functions}
        logged["num_tokens"] = 1000.0 * step
    return raw_step(
        step,
        epoch=step / 100,
        held=(list(logged), list(logged.values())),
        readings=[("loss", value, 0), ("grad_norm", value, 0)],
        learning_rate=1e-5,
        generation=Generation([REWARDS] * len(functions), None, 2, functions, COMPLETIONS)
        if generates
        else None,
        phases=recorder.end_step(),
        skipped_steps=step // 40,
    )


def observed_run(pipeline: Pipeline, functions: list[str], steps: int = 60) -> None:
    """Let ``pipeline`` observe a run that generates at every second step, evaluates and saves."""
    algorithm = pipeline.identity.algorithm
    recorder = PhaseRecorder()
    assembler = Assembler(recorder, StepMetrics(None), 0.0, algorithm, samples=Samples())
    for step in range(1, steps + 1):
        record, tokens = assembler.assemble(
            complete_step(step, functions, step % 2 == 1, recorder, algorithm)
        )
        record.values.update(SYSTEM_SIGNALS)
        if step == steps:
            record.nonfinite["loss"] = 1
        if step == steps // 2:
            evaluation = {f"eval_{key}": 0.4 for key in keys_of(algorithm)}
            pipeline.evaluation(map_logs(evaluation, algorithm).evaluation, step, 1.7e9)
            pipeline._checkpointed({"step": step, "time": 1.7e9})
        pipeline.step(record, tokens, 0.001 * step)


def grpo_view(rank: int = 0, functions: int = 10) -> RunView:
    """A GRPO run with everything that one can have present, one fired rule included."""
    return view_of("grpo", rank, functions)


def view_of(algorithm: str, rank: int = 0, functions: int = 10) -> RunView:
    """As :func:`grpo_view`, of any algorithm."""
    names = [f"reward_{number}" for number in range(functions)]
    called = [] if algorithm.startswith("async") else names  # there another process calls them
    identity = RunIdentity(
        "run-1", rank=rank, world_size=8, algorithm=algorithm, model="m", team="t", cluster="c"
    )
    pipeline = Pipeline(identity, Settings(metrics_port="off", journal="off"), None)
    observed_run(pipeline, names)
    zeros = dict.fromkeys(called, 0)
    return RunView(
        identity,
        pipeline.snapshot._replace(wasted=dict.fromkeys(Waste, 1.0) if rank == 0 else {}),
        "1.16",
        {phase.name: 1.0 for phase in PHASES},
        {phase.name: 0 if phase.name in NEVER_ENDED else 2 for phase in PHASES},
        dict.fromkeys(called, 0.5),
        zeros,
        zeros,
        zeros,
        SYSTEM,
        pipeline.telemetry(1, 0.01)._replace(
            dropped={"background": 0, "journal": 0, "traces": 0}, kept_steps=KEPT
        ),
        device_seconds=dict.fromkeys(ON_THE_DEVICE, 1.0),
        checkpoint=ANALYSIS if rank == 0 else None,
        checkpoint_analyses={"done": 1, "failed": 0, "skipped": 0} if rank == 0 else {},
        open_phase=OpenPhase("reward", 0.5),
        stall_threshold_s=300.0,
    )


def complete_view() -> RunView:
    """A run that has a sample of every family that there is; its numbers mean nothing."""
    names = {signal.name: 0.5 for signal in SIGNALS}
    one = {"a_function": 1}
    snapshot = Snapshot(
        step=3,
        planned_steps=9,
        time_s=1.7e9,
        started_s=1.7e9,
        values=names,
        statistics={name: Statistics(0.5, 0.5, 0.1, 1.0, 0.1, 1.0, 0.0) for name in names},
        reward_functions={"a_function": (0.5, 0.1)},
        unmapped={"a/key": 1.0},
        evaluation=names,
        nonfinite={signal.name: 0 for signal in SIGNALS if signal.watch_nonfinite},
        health=Health(0.5, {"reward": 0.5}, 0.9, {"reward": 0.9}),
        verdicts=tuple(_fired()),
        streaks={rule.name: rule.steps for rule in RULES},
        anomaly_traces={rule.name: "0af7651916cd43dd8448eb211c80319c" for rule in RULES},
        durations={kind: HistogramState((1,) * 11, 3.0) for kind in ("generate", "reuse")},
        last_checkpoint=(2, 1.7e9),
        saved=((1, 1.6e9), (2, 1.7e9)),
        dropped={"key": 1},
        truncated_tokens=100.0,
        wasted=dict.fromkeys(Waste, 1.0),
    )
    view = grpo_view(functions=1)
    return view._replace(
        snapshot=snapshot,
        function_seconds={"a_function": 0.5},
        function_none=one,
        function_errors=one,
        function_nonfinite=one,
        actions={("log", "done"): 1},
        end=RunEnd(Outcome.FINISHED, NOW_NS, 3),
        updates_dropped=1,
        rewards=WATCHED.rewards,
        agreement=WATCHED.agreement,
    )


def _fired() -> Iterator[Verdict]:
    for rule in RULES:
        yield Verdict(rule, True, 1, 2, 3, NOW_NS, rule.signal, 0.5, 0.5)
