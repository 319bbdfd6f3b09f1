"""From a log's rows to step records, by the same conventions as in process (``assembly.py``).

A row is what a trainer logged at a step. It says less than what the callback sees: with ``logging_steps``
above 1 its values are means over the steps since the row before, and often it carries no time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.derived import add_derived, add_evaluation_gap
from rlhf_otel.records import StepRecord
from rlhf_otel.replay.algorithm import algorithm_of
from rlhf_otel.replay.spelling import STEP_KEYS, TIME_KEYS, trl_key
from rlhf_otel.sources.trl_logs import MappedLogs, Places, as_number

SYNTHETIC_STEP_NS: Final = 15 * 10**9
"""Time between two rows of a log without times: one scrape interval, so that each row is one sample."""
FIRST_UNIX_TIME: Final = 1e9
"""Numbers below it in a column called "time" are no Unix time but seconds since some start."""

GENERATED: Final = frozenset({"reward", "completion_length"})
"""Signals of a generation."""
ENOUGH_REWARDS: Final = 3
"""Rewards that came with a completion length before a missing one means something."""
WATCHED: Final = frozenset(signal.name for signal in SIGNALS if signal.watch_nonfinite)
_NO_VALUES: Final = frozenset({*STEP_KEYS, *TIME_KEYS})
_NOT_TRAINING: Final = frozenset({"epoch", "learning_rate"})
"""Signals that also stand in rows which are no training step."""

Vocabulary = Callable[[Mapping[str, Any]], MappedLogs]


class Row(NamedTuple):
    """What was logged at a step. ``time_s`` is Unix time; None where the log does not say."""

    step: int | None
    time_s: float | None
    values: Mapping[str, Any]


def row_of(values: Mapping[str, Any]) -> Row:
    """A row from a flat dict that also holds its step and, maybe, its time."""
    step = _first(values, STEP_KEYS)
    time_s = _first(values, TIME_KEYS, FIRST_UNIX_TIME)
    return Row(int(step) if step is not None and math.isfinite(step) else None, time_s, values)


def _first(values: Mapping[str, Any], keys: Iterable[str], above: float = -math.inf) -> float | None:
    """The first number above a bound."""
    for key in keys:
        raw = values.get(key)
        if raw is not None:
            number = as_number(raw)
            if number is not None and number > above:
                return number
    return None


class TRLVocabulary:
    """The meaning of TRL's keys, in whatever spelling; of an algorithm's, once they tell which it is."""

    def __init__(self, algorithm: str = "") -> None:
        self.algorithm = algorithm

    def __call__(self, values: Mapping[str, Any]) -> MappedLogs:
        """Values by meaning."""
        keys = tuple(values)
        if not self.algorithm:
            self.algorithm = algorithm_of(tuple(map(trl_key, keys)))
        return _places_of(keys, self.algorithm).sort(values)


@lru_cache(maxsize=256)
def _places_of(keys: tuple[str, ...], algorithm: str) -> Places:
    """Of two spellings of a key the last counts; a step and a time are no values."""
    spelled = {trl_key(key): key for key in keys if key not in _NO_VALUES}
    return Places.of(((key, name) for name, key in spelled.items()), algorithm)


class RowAssembler:
    """Turns the rows of one log into records; remembers what spans rows."""

    def __init__(self, vocabulary: Vocabulary, null_is_nonfinite: bool = False) -> None:
        """``null_is_nonfinite``: TRL logs null where all values were NaN; elsewhere null may mean "none"."""
        self._vocabulary = vocabulary
        self._null_is_nonfinite = null_is_nonfinite
        self._rows = 0
        self._rewarded = False
        self._paired = 0
        self._tokens: float | None = None
        self._last_step = 0
        self._last_time_s: float | None = None
        self.timed = False
        """Whether the log says when its rows were written."""
        self.evaluation: dict[str, float] = {}
        """Latest evaluation values."""
        self.unknown: dict[str, int] = {}
        """Keys that no signal stands for, to the number of rows in which they were NaN or infinite."""

    @property
    def algorithm(self) -> str:
        """The algorithm whose keys they are, as far as it is known."""
        return str(getattr(self._vocabulary, "algorithm", ""))

    def record(self, row: Row) -> StepRecord | None:
        """The row's record; None for an evaluation, the closing summary, or what is about no training
        step."""
        logged = _nan_for_null(row.values) if self._null_is_nonfinite else row.values
        mapped = self._vocabulary(logged)
        self.evaluation.update(mapped.evaluation)
        self._note_unknown(mapped.unmapped)
        if mapped.values.keys() <= _NOT_TRAINING and not mapped.reward_functions:
            return None
        self._rows += 1
        step = self._last_step + 1 if row.step is None else row.step
        time_ns = self._time_ns(row.time_s)
        record = StepRecord(
            step=step,
            epoch=mapped.values.get("epoch", 0.0),
            kind=self._kind(mapped),
            start_ns=time_ns,
            end_ns=time_ns,
            time_ns=time_ns,
            values=mapped.values,
            reward_functions=mapped.reward_functions,
            unmapped=mapped.unmapped,
        )
        self._add_time(record, row.time_s, mapped.tokens)
        self._add_dropped_reward(record)
        _add_groups(record.values)
        add_derived(record)
        add_evaluation_gap(record.values, self.evaluation.get("reward"))
        _add_nonfinite(record)
        self._last_step = step
        if row.time_s is not None:
            self._last_time_s = row.time_s
        return record

    def _note_unknown(self, unmapped: Mapping[str, float]) -> None:
        unknown = self.unknown
        for key, value in unmapped.items():
            unknown[key] = unknown.get(key, 0) + (value - value != 0.0)

    def _time_ns(self, time_s: float | None) -> int:
        if time_s is None:
            return self._rows * SYNTHETIC_STEP_NS
        self.timed = True
        return int(time_s * 1e9)

    def _kind(self, mapped: MappedLogs) -> StepKind:
        """Steps that train on a generation again lack its keys; only trainers that log rewards have any."""
        self._rewarded = self._rewarded or "reward" in mapped.values
        reuses = self._rewarded and mapped.values.keys().isdisjoint(GENERATED)
        return StepKind.REUSE if reuses else StepKind.GENERATE

    def _add_dropped_reward(self, record: StepRecord) -> None:
        """TRL logs None for a reward that was NaN throughout, and trackers drop None. So a reward that is
        missing beside a completion length, with which it used to come, was NaN."""
        values = record.values
        if "completion_length" not in values:
            return
        if "reward" in values:
            self._paired += 1
        elif self._paired >= ENOUGH_REWARDS:
            values["reward"] = math.nan
            record.details["reward"] = (
                "missing though completions were generated; TRL drops a reward that is NaN"
            )

    def _add_time(self, record: StepRecord, time_s: float | None, tokens: float | None) -> None:
        """Durations from the times of rows, spread over the steps between them."""
        steps = record.step - self._last_step
        if time_s is not None and self._last_time_s is not None and steps > 0:
            elapsed = time_s - self._last_time_s
            if elapsed > 0:
                record.values.setdefault("step_duration", elapsed / steps)
                record.start_ns = record.end_ns - int(elapsed / steps * 1e9)
                if tokens is not None and self._tokens is not None:
                    record.values.setdefault("tokens_per_second", max(0.0, tokens - self._tokens) / elapsed)
        if tokens is not None:
            self._tokens = tokens


def _nan_for_null(values: Mapping[str, Any]) -> Mapping[str, Any]:
    if None not in values.values():
        return values
    return {key: math.nan if value is None else value for key, value in values.items()}


def _add_groups(values: dict[str, float]) -> None:
    """Groups without advantage, as far as a log tells: TRL's share, or that no completion differed at all."""
    deviation, share = values.get("reward_std"), values.get("reward_zero_std_ratio")
    if "zero_advantage_groups" in values or (deviation is None and share is None):
        return
    values["zero_advantage_groups"] = 1.0 if deviation == 0.0 else share or 0.0


def _add_nonfinite(record: StepRecord) -> None:
    total = sum(record.values.values())
    if total - total == 0.0:  # so that all of them are finite
        return
    for name, value in record.values.items():
        if value - value != 0.0 and name in WATCHED:
            record.nonfinite[name] = 1
