"""Assembly: what the training thread noted of a step becomes a step record, on the background thread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

from rlhf_otel import faults
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.derived import add_derived
from rlhf_otel.records import PhaseInterval, Rollouts, StepRecord
from rlhf_otel.sources.groups import (
    Generation,
    advantage_deviation,
    lowest_correlation,
    unscored_ratio,
    weighted_rewards,
    zero_advantage_ratio,
)
from rlhf_otel.sources.phases import PhaseRecorder, nest
from rlhf_otel.sources.ppo_cells import PPOCells
from rlhf_otel.sources.samples import Samples
from rlhf_otel.sources.scalars import Reading
from rlhf_otel.sources.step_metrics import Held, StepMetrics, means
from rlhf_otel.sources.trl_keys import family_of
from rlhf_otel.sources.trl_logs import MappedLogs, as_number, map_logs

GENERATED: Final = frozenset({"reward", "completion_length"})
"""Signals of a generation."""
FORWARDED_TOKENS: Final = "batch/forwarded_tokens_per_step"
"""Key of the async trainers, which have no other number of tokens, for those that a step trained on."""
WATCHED = tuple(signal.name for signal in SIGNALS if signal.watch_nonfinite)


class RawStep(NamedTuple):
    """What the training thread notes at the end of a step: references and numbers, nothing computed."""

    step: int
    epoch: float | None
    start_ns: int
    end_ns: int
    time_ns: int
    held: Held | None
    """None of a trainer that keeps no lists; its values come from its log."""
    readings: list[Reading]
    learning_rate: float | None
    generation: Generation | None
    nonfinite_rewards: dict[str, int]
    """NaN or infinite rewards by reward function."""
    phases: int
    """The step's number of the phase recorder."""
    skipped_steps: int
    telemetry_ns: int
    """What was spent on telemetry at the ends of the steps before."""
    rollouts: Sequence[Rollouts] = ()
    """What an asynchronous trainer trained on; empty elsewhere."""
    reward_errors: Mapping[str, int] = {}
    """Calls that raised, by reward function."""


class Assembler:
    """Turns raw steps into records; remembers what spans steps (logs, tokens, end of the last generation)."""

    def __init__(
        self,
        recorder: PhaseRecorder,
        metrics: StepMetrics,
        tokens: float = 0.0,
        algorithm: str = "",
        ppo: PPOCells | None = None,
        samples: Samples | None = None,
    ) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._tokens = tokens
        self._algorithm = algorithm
        family = family_of(algorithm)
        self._reuses, self._reduces_by_name = family.reuses, family.reduces_by_name
        self._ppo = ppo
        self._samples = samples
        self._generated_ns = perf_counter_ns()
        self._logged: MappedLogs | None = None
        self._logged_step = 0
        self._hooked: set[str] = set()
        self._skipped = 0

    def log(self, logs: Mapping[Any, Any], step: int) -> dict[str, float]:
        """Take what the trainer has logged; returns the values of an evaluation.

        The others are for the next step to be assembled, where no per-step list has them: PPO logs before a
        step's end, the others after it, which is a step late.
        """
        seen = self._metrics.keys
        mapped = map_logs({key: value for key, value in logs.items() if key not in seen}, self._algorithm)
        if not mapped.evaluation:
            self._logged, self._logged_step = mapped, step
        return mapped.evaluation

    def assemble(self, raw: RawStep) -> tuple[StepRecord, float]:
        """The step's record, and the tokens that it added. In the order of the steps. A part that raises loses
        its own values."""
        logged, self._logged = self._logged, None
        if logged is not None and self._logged_step < raw.step:
            for name in self._hooked:  # the step before has it already, and a NaN counts once
                logged.values.pop(name, None)
        self._hooked = {name for name, _, lag in raw.readings if lag == 0}
        mapped = MappedLogs()
        with faults.isolated("sources", "mapping what the trainer logged"):
            mapped = self._mapped(raw, logged)
        phases: list[PhaseInterval] = []
        absorbed_s: float | None = None
        with faults.isolated("phases", "nesting a step's phases"):
            phases = nest(self._recorder.take_step(raw.phases))
            absorbed_s = self._recorder.absorbed_s
        left_out = self._recorder.left_out
        record = StepRecord(
            step=raw.step,
            epoch=raw.epoch or 0.0,
            kind=self._kind(raw, mapped),
            start_ns=raw.start_ns,
            end_ns=raw.end_ns,
            time_ns=raw.time_ns,
            values=mapped.values,
            reward_functions=mapped.reward_functions,
            unmapped=mapped.unmapped,
            phases=phases,
            device=self._recorder.take_device(raw.phases),
            phases_left_out=left_out,
            rollouts=raw.rollouts,
            absorbed_s=absorbed_s,
        )
        if logged is not None and self._logged_step < raw.step:
            record.lag.update(dict.fromkeys(logged.values, raw.step - self._logged_step))
        with faults.isolated("sources", "adding what the hooks saw"):
            _add_hooked(record, raw)
        if self._ppo is not None:
            with faults.isolated("sources", "correcting PPO's statistics"):
                self._ppo.correct(record.values)
        tokens = self._add_tokens(record, mapped, raw.end_ns)
        record.tokens = tokens or record.unmapped.get(FORWARDED_TOKENS, 0.0)
        self._add_skipped(record, raw.skipped_steps)
        with faults.isolated("sources", "looking at groups and samples"):
            self._add_generation(record, raw.generation)
        with faults.isolated("sources", "deriving signals"):
            add_derived(record)
        _add_nonfinite(record, raw.nonfinite_rewards)
        if raw.reward_errors:
            record.values["reward_function_errors"] = float(sum(raw.reward_errors.values()))
            raised = (f"{name} raised in {count}" for name, count in raw.reward_errors.items())
            record.details["reward_function_errors"] = f"calls of the step: {', '.join(raised)}"
        return record, tokens

    def _mapped(self, raw: RawStep, logged: MappedLogs | None) -> MappedLogs:
        """What the step appended to the trainer's lists, and beside it what only the log said."""
        if raw.held is None:
            return logged or MappedLogs()
        mapped = map_logs(means(self._metrics.appended(raw.held), self._reduces_by_name), self._algorithm)
        if logged is not None:
            mapped.values = {**logged.values, **mapped.values}
            mapped.unmapped = {**logged.unmapped, **mapped.unmapped}
        return mapped

    def _kind(self, raw: RawStep, mapped: MappedLogs) -> StepKind:
        """Go by the generation that was observed: its keys appear in just the steps that generate."""
        if raw.held is None or not self._reuses or not GENERATED.isdisjoint(mapped.values):
            return StepKind.GENERATE
        return StepKind.REUSE

    def _add_generation(self, record: StepRecord, generation: Generation | None) -> None:
        if generation is None:
            return
        rewards, size = weighted_rewards(generation), generation.group_size
        found = {
            "zero_advantage_groups": zero_advantage_ratio(rewards, size),
            "advantage_std": advantage_deviation(rewards, size),
            "reward_function_correlation": lowest_correlation(generation.by_function),
            "unscored_ratio": unscored_ratio(generation),
        }
        record.values.update({name: value for name, value in found.items() if value is not None})
        if self._samples is not None:
            record.values.update(self._samples.signals(generation, record.values, rewards))
            record.histograms = self._samples.histograms(generation)
        cut_off = record.values.get("truncated_token_ratio", 0.0)
        record.truncated_tokens = cut_off * len(rewards) * record.values.get("completion_length", 0.0)

    def _add_skipped(self, record: StepRecord, skipped: int) -> None:
        if skipped:
            record.update_lost = skipped > self._skipped
            record.values["optimizer_step_skipped"] = float(record.update_lost)
            self._skipped = skipped

    def _add_tokens(self, record: StepRecord, mapped: MappedLogs, now: int) -> float:
        if mapped.tokens is None or not math.isfinite(mapped.tokens):
            return 0.0
        fresh = max(0.0, mapped.tokens - self._tokens)
        elapsed = (now - self._generated_ns) / 1e9
        if elapsed > 0:
            record.values["tokens_per_second"] = fresh / elapsed
        self._tokens, self._generated_ns = mapped.tokens, now
        return fresh


def _add_hooked(record: StepRecord, raw: RawStep) -> None:
    """Values seen at hooks, which the trainer's log hides or shows only when it logs."""
    if raw.epoch is not None:
        record.values["epoch"] = raw.epoch
    if raw.learning_rate is not None:
        record.values["learning_rate"] = raw.learning_rate
    for (name, lag), value in sorted(_by_step(raw.readings).items(), key=_oldest_first):
        known = record.values.get(name, 0.0) if name in record.lag else 0.0
        if known - known == 0.0:  # a newer step's value takes the place of an older one's, but of no NaN
            record.values[name], record.lag[name] = value, lag
    record.lag = {name: lag for name, lag in record.lag.items() if lag}


def _by_step(readings: Iterable[Reading]) -> dict[tuple[str, int], float]:
    """Name and lag to value: of a step's micro-batches the sum of losses, and the last of the others."""
    found: dict[tuple[str, int], float] = {}
    for name, raw, lag in readings:
        value = as_number(raw)
        if value is None:
            continue
        # Each micro-batch's loss is already divided by their number.
        found[name, lag] = value + found.get((name, lag), 0.0) if name == "loss" else value
    return found


def _oldest_first(item: tuple[tuple[str, int], float]) -> int:
    return -item[0][1]


def _add_nonfinite(record: StepRecord, nonfinite_rewards: dict[str, int]) -> None:
    for name in WATCHED:
        value = record.values.get(name, 0.0)
        if value - value != 0.0:
            record.nonfinite[name] = 1
    if nonfinite_rewards:
        record.nonfinite["reward"] = record.nonfinite.get("reward", 0) + sum(nonfinite_rewards.values())
        functions = (f"{name} returned {count}" for name, count in nonfinite_rewards.items())
        record.details["reward"] = f"NaN or infinite rewards: {', '.join(functions)}"
