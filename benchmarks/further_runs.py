"""Real runs of other trainers that go wrong: evidence for rules that GRPO and DPO of the installed TRL do not reach.

    python benchmarks/further_runs.py FOLDER [NAME ...]      writes FOLDER/NAME-further-1.jsonl.gz

PPO needs an interpreter with TRL 1.12 (``make .venv-ppo``), the rollout worker of async GRPO needs aiohttp; what is
lacking is left out and named. Trainers are the tiny ones of the tests. Where a part can't be had on this machine, the
case says what stands for it; the trainer's own loop, loss and metrics are always TRL's.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import further_parts as parts
import torch
from evidence import write_steps
from transformers import TrainerCallback

from rlhf_otel import TelemetryCallback
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.replay.engine import run
from rlhf_otel.replay.readers.journal import step_of

STRIKES: Final = 40
"""Step at whose begin a fault that strikes later does so."""


class Case(NamedTuple):
    """A run that goes wrong."""

    rules: tuple[str, ...]
    """Rules that it is evidence for."""
    build: Callable[..., Any]
    arguments: dict[str, Any]
    strike: Callable[[Any], None] | None = None
    """What goes wrong after :data:`STRIKES` steps; nothing where the arguments are wrong from the first step on."""
    pace_s: float = 0.0
    """Time that a step is given, for what is done beside training to keep up."""
    around: Callable[[Path], contextlib.AbstractContextManager[Path]] | None = None
    """Prepares the directory of the run."""


class Striking(TrainerCallback):
    """Lets the fault happen. PPO of TRL 1.12 has no begin of a step, hence at the end of the one before."""

    def __init__(self, strike: Callable[[Any], None] | None, pace_s: float) -> None:
        self.trainer: Any = None
        self._strike, self._pace_s = strike, pace_s

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        time.sleep(self._pace_s)
        if self._strike is not None and state.global_step == STRIKES - 1:
            self._strike(self.trainer)


def _raise_learning_rate(factor: float) -> Callable[[Any], None]:
    def strike(trainer: Any) -> None:
        for group in trainer.optimizer.param_groups:
            group["lr"] *= factor
            group["initial_lr"] = group.get("initial_lr", group["lr"]) * factor
        scheduler = getattr(trainer, "lr_scheduler", None)
        if scheduler is not None:
            scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]

    return strike


def _scale_scores(factor: float) -> Callable[[Any], None]:
    """The reward model's scores are suddenly on another scale, as after a change of its head."""

    def strike(trainer: Any) -> None:
        with torch.no_grad():
            trainer.reward_model.score.weight *= factor

    return strike


def _weaken_gradients(trainer: Any) -> None:
    for weights in trainer.model.parameters():
        weights.register_hook(lambda gradient: gradient * 0.005)


def _slow_sync(trainer: Any) -> None:
    trainer.vllm_generation.sync_s = 0.25


def _reports(off_by: float) -> Callable[[Any], None]:
    """The sampler reports other log-probabilities than it drew by, as with another ``logprobs_mode``."""

    def strike(trainer: Any) -> None:
        trainer.vllm_generation.off_by = off_by

    return strike


def _break(trainer: Any) -> None:
    parts.broken.append(True)


def _skip_steps(count: int) -> Callable[[Any], None]:
    """What fp16 does whose gradients overflow: the scaler leaves out the update, once or, at every loss scale, for good."""

    def strike(trainer: Any) -> None:
        left = iter(range(count))
        skipped = property(lambda self: next(left, None) is not None)
        mock.patch.object(type(trainer.accelerator), "optimizer_step_was_skipped", skipped).start()

    return strike


def _sample_at_random(trainer: Any) -> None:
    parts.sample_at_random()
    _raise_learning_rate(0.02)(trainer)  # else the policy would soon be as random


def _raise_in_sync(trainer: Any) -> None:
    """The sampler is gone: handing it the weights raises, which ends the run."""
    trainer.vllm_generation.gone = True


def _leak(trainer: Any) -> None:
    """From now on each step keeps what it allocated."""
    kept: list[bytearray] = []

    class Leaking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kept.append(bytearray(b"x") * 4_000_000)

    trainer.add_callback(Leaking())


def _explode_a_layer(trainer: Any) -> None:
    with torch.no_grad():
        next(p for n, p in trainer.model.named_parameters() if "mlp.up_proj" in n).mul_(1e5)


def _later_samples(**change: Any) -> Callable[[Any], None]:
    def strike(trainer: Any) -> None:
        vars(trainer.rollout_worker).update(change)

    return strike


def _refuse(trainer: Any) -> None:
    """The server is overloaded: three of five requests are refused."""
    trainer.server.refuses = lambda number: number % 5 < 3


def _slow_trainer(trainer: Any) -> None:
    parts.slow_down(trainer, 0.4)


def _hiccups(trainer: Any) -> None:
    """Now and then a request is refused, and now and then the trainer takes so long that the queue is full."""
    trainer.server.refuses = lambda number: number % 9 == 0
    parts.slow_down(trainer, 0.4, every=4)


_SERVED: Final[dict[str, Any]] = {"max_inflight_tasks": 8, "queue_maxsize": 8}
_PPO: Final[dict[str, Any]] = {"max_steps": 80, "learning_rate": 1e-3}
CASES: Final[dict[str, Case]] = {
    "healthy-ppo": Case((), parts.ppo, _PPO),
    "async-steady": Case((), parts.live_async_grpo, {"max_steps": 80}),
    "healthy-online": Case((), parts.online_dpo, {"max_steps": 60}),
    "healthy-tools": Case((), parts.grpo_with_tool, {"max_steps": 80}),
    "ppo-scores-rescaled": Case(("ValueDivergence",), parts.ppo, _PPO, _scale_scores(20.0)),
    "ppo-value-clipped": Case(
        ("ValueClipFractionHigh",),
        parts.ppo,
        {**_PPO, "cliprange_value": 1e-4, "num_ppo_epochs": 6},
        _scale_scores(20.0),
    ),
    "ppo-learning-rate": Case(
        ("PolicyRatioBlowUp",),
        parts.ppo,
        {**_PPO, "num_ppo_epochs": 6, "cliprange": 100.0, "max_steps": 60},
        _raise_learning_rate(60.0),
    ),
    "ppo-no-end": Case(("EOSMissing",), parts.ppo_without_end, _PPO),
    "ppo-runaway": Case(
        ("SequenceKLRunaway",),
        parts.ppo,
        {**_PPO, "max_steps": 120, "kl_coef": 0.0, "response_length": 64},
        _raise_learning_rate(30.0),
    ),
    "ppo-hot-sampling": Case(
        ("KLNegative",),
        parts.ppo,
        {**_PPO, "kl_coef": 0.0, "learning_rate": 3e-3, "response_length": 24},
        _sample_at_random,
    ),
    "online-no-end": Case(("CompletionsWithoutEOS",), parts.online_dpo_without_end, {"max_steps": 60}),
    "dpo-learning-rate": Case(
        ("LikelihoodDisplacement",),
        parts.dpo,
        {"max_steps": 90, "learning_rate": 2e-4},
        _raise_learning_rate(3000.0),
    ),
    "dpo-separable": Case(
        ("PreferenceSaturated",), parts.separable_dpo, {"max_steps": 320, "learning_rate": 1e-2}
    ),
    "sft-weak-gradient": Case(("GradientLost",), parts.sft, {"max_steps": 70}, _weaken_gradients),
    "skipped-steps": Case(("OptimizerStepsSkipped",), parts.sft, {"max_steps": 70}, _skip_steps(1000)),
    "healthy-skipped": Case((), parts.sft, {"max_steps": 70}, _skip_steps(1)),
    "tools-broken": Case(("ToolsFailing",), parts.grpo_with_tool, {"max_steps": 80}, _break),
    "sampler-reports-low": Case(
        ("ImportanceWeightHigh", "SamplerMismatch"),
        parts.grpo_with_sampler,
        {"max_steps": 80},
        _reports(-0.5),
    ),
    "sampler-reports-high": Case(
        ("ImportanceWeightLow",),
        parts.grpo_with_sampler,
        {"max_steps": 80, "max_completion_length": 20},
        _reports(0.09),
    ),
    "weight-sync-slow": Case(("WeightSyncSlow",), parts.grpo_with_sampler, {"max_steps": 70}, _slow_sync),
    "async-stale": Case(
        ("SamplesStale",), parts.live_async_grpo, {"max_steps": 90}, _later_samples(behind=6)
    ),
    "async-dropped": Case(
        ("StaleSamplesDropped",),
        parts.live_async_grpo,
        {"max_steps": 70, "max_staleness": 4},
        _later_samples(behind=6, every=2),
    ),
    "async-starved": Case(
        ("RolloutWaitHigh",), parts.live_async_grpo, {"max_steps": 80}, _later_samples(pause_s=0.15)
    ),
    "async-ratio": Case(
        ("RatioToSamplerBlowUp",), parts.live_async_grpo, {"max_steps": 80}, _later_samples(off_by=-4.0)
    ),
    "async-hiccups": Case((), parts.served_async_grpo, {"max_steps": 140, **_SERVED}, _hiccups),
    "sampler-refuses": Case(
        ("SamplerRetrying",),
        parts.served_async_grpo,
        {"max_steps": 120, **_SERVED, "max_inflight_tasks": 64},
        _refuse,
    ),
    "async-trainer-slow": Case(
        ("RolloutBackpressure",), parts.served_async_grpo, {"max_steps": 80, **_SERVED}, _slow_trainer
    ),
    "reward-raises": Case(("RewardFunctionFailing",), parts.grpo_with_service, {"max_steps": 60}, _break),
    "weight-sync-raises": Case(
        ("WeightSyncFailing",), parts.grpo_with_sampler, {"max_steps": 60}, _raise_in_sync
    ),
    "memory-limit": Case(
        ("HostMemoryGrowth",), parts.grpo, {"max_steps": 260}, _leak, 2.0, parts.container_of_limited_memory
    ),
    "disk-full": Case(
        ("CheckpointDiskLow",), parts.grpo, {"max_steps": 40, "save_steps": 5}, around=parts.small_disk
    ),
    "checkpoint-exploded": Case(
        ("CheckpointUnhealthy",), parts.grpo, {"max_steps": 70, "save_steps": 10}, _explode_a_layer, 0.3
    ),
    "checkpoint-unchanged": Case(
        ("CheckpointNothingLearned",),
        parts.grpo,
        {"max_steps": 80, "save_steps": 10},
        parts.save_the_same,
        0.3,
    ),
}


def train(case: Case, folder: Path, journal: Path) -> list[dict[str, Any]]:
    """The step records of the journal of a run."""
    striking = Striking(case.strike, case.pace_s)
    telemetry = TelemetryCallback(journal=journal, metrics_port="off")
    arguments = {"save_strategy": "steps"} if "save_steps" in case.arguments else {}
    trainer = case.build(folder, [striking, telemetry], **arguments, **case.arguments)
    striking.trainer = trainer
    with contextlib.suppress(OSError, RuntimeError):  # a full disk, say, ends the run
        trainer.train()
    return [record for record in read_journal(journal) if record["type"] == "step"]


def record(name: str, folder: Path) -> None:
    """Train a case, write its copy, and say what fired."""
    case, began = CASES[name], time.monotonic()
    prepare: Callable[[Path], Any] = case.around or contextlib.nullcontext
    with (
        tempfile.TemporaryDirectory() as scratch,
        prepare(Path(scratch)) as where,
        mock.patch.object(parts, "broken", []),
    ):
        steps = [step_of(one) for one in train(case, Path(where), Path(scratch) / "journal")]
    fired = {anomaly.rule for anomaly in run(steps)}
    missing = set(case.rules) - fired
    write_steps(steps, folder / f"{name}-further-1.jsonl.gz")
    print(f"{name}: {len(steps)} steps, {time.monotonic() - began:.0f} s; fired {', '.join(sorted(fired)) or 'nothing'}"
          + (f"; NOT {', '.join(sorted(missing))}" if missing else ""), flush=True)  # fmt: skip


def main(arguments: list[str]) -> None:
    """Each case in a process of its own, since some patch what all trainers share."""
    folder, names = Path(arguments[0]), arguments[1:]
    folder.mkdir(parents=True, exist_ok=True)
    if len(names) == 1:
        record(names[0], folder)
        return
    for name in names or list(CASES):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", __file__, str(folder), name], capture_output=True, text=True
        )
        print(
            done.stdout.strip()
            if done.returncode == 0
            else f"{name}: {done.stderr.strip().splitlines()[-1]}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
