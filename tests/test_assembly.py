"""Assembly: what was noted of a step becomes the step's record, whatever lay in the trainer's lists and logs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from views import raw_step

from rlhf_otel.assembly import Assembler
from rlhf_otel.catalogue.metrics import MAX_REWARD_FUNCTIONS, MAX_TRAINER_METRICS
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.journal_records import step_record
from rlhf_otel.pipeline import Pipeline
from rlhf_otel.records import RunIdentity, StepRecord
from rlhf_otel.settings import Settings
from rlhf_otel.sources.groups import Generation
from rlhf_otel.sources.phases import PhaseRecorder
from rlhf_otel.sources.ppo_cells import PPOCells
from rlhf_otel.sources.samples import Samples
from rlhf_otel.sources.scalars import Reading
from rlhf_otel.sources.step_metrics import StepMetrics

NAN, INF = math.nan, math.inf


class Training:
    """A trainer with lists, and the assembler of its run."""

    def __init__(self, algorithm: str = "grpo", **more: Any) -> None:
        self.lists: dict[str, list[Any]] = defaultdict(list)
        self.recorder = PhaseRecorder()
        self.metrics = StepMetrics(SimpleNamespace(_metrics={"train": self.lists}))
        self.assembler = Assembler(self.recorder, self.metrics, algorithm=algorithm, **more)
        self.step = 0
        self.tokens = 0.0

    def end_step(self, measured: dict[str, Any] | None = None, **noted: Any) -> StepRecord:
        self.step += 1
        for key, value in (measured or {}).items():
            self.lists[key].append(value)
        noted = {"held": self.metrics.take(), "phases": self.recorder.end_step(), **noted}
        record, tokens = self.assembler.assemble(raw_step(self.step, **noted))
        self.tokens += tokens
        return record


def readings(*found: tuple[str, Any, int]) -> list[Reading]:
    return list(found)


# Values


def test_a_step_has_what_the_trainer_measured_and_what_hooks_saw() -> None:
    record = Training().end_step(
        {"reward": 0.5, "kl": 0.1, "rewards/f/mean": 0.4, "rewards/f/std": 0.2, "mystery": 7.0},
        epoch=0.25,
        learning_rate=1e-5,
        readings=readings(("loss", torch.tensor(0.3), 0), ("grad_norm", 2.0, 0)),
    )
    expected = {
        "reward": 0.5,
        "kl_per_token": 0.1,
        "epoch": 0.25,
        "learning_rate": 1e-5,
        "loss": pytest.approx(0.3),
    }
    assert {name: record.values[name] for name in expected} == expected
    assert record.values["grad_norm"] == 2.0
    assert record.reward_functions == {"f": (0.4, 0.2)}
    assert record.unmapped == {"mystery": 7.0}
    assert (record.step, record.epoch, record.duration_s) == (1, 0.25, 1.0)
    assert not record.nonfinite


def test_losses_of_micro_batches_add_up_and_the_last_norm_counts() -> None:
    record = Training().end_step(
        readings=readings(("loss", 1.0, 0), ("grad_norm", 1.0, 0), ("loss", 0.5, 0), ("grad_norm", 3.0, 0))
    )
    assert (record.values["loss"], record.values["grad_norm"]) == (1.5, 3.0)


def test_what_was_read_late_says_how_late() -> None:
    record = Training().end_step(readings=readings(("loss", 1.0, 1), ("loss", 2.0, 1)))
    assert (record.values["loss"], record.lag) == (3.0, {"loss": 1})


def test_of_two_steps_that_are_read_at_once_the_newer_counts_unless_the_older_failed() -> None:
    fresh = Training().end_step(readings=readings(("loss", 1.0, 1), ("loss", 2.0, 0)))
    assert (fresh.values["loss"], fresh.lag) == (2.0, {})
    failed = Training().end_step(readings=readings(("loss", NAN, 1), ("loss", 2.0, 0)))
    assert math.isnan(failed.values["loss"])
    assert (failed.lag, failed.nonfinite) == ({"loss": 1}, {"loss": 1})


def test_what_a_hook_saw_is_not_seen_again_in_the_log_that_follows() -> None:
    training = Training()
    counted = []
    for loss in (1.0, NAN, 2.0, 3.0):
        record = training.end_step(readings=readings(("loss", loss, 0)))
        counted.append(record.nonfinite)
        training.assembler.log({"loss": loss, "grad_norm": 1.0}, training.step)
    assert counted == [{}, {"loss": 1}, {}, {}]
    assert (record.values["loss"], record.values["grad_norm"], record.lag) == (3.0, 1.0, {"grad_norm": 1})


def test_a_nan_that_only_the_log_shows_is_told_a_step_later() -> None:
    training = Training()
    training.end_step()
    training.assembler.log({"loss": NAN}, training.step)
    record = training.end_step(readings=readings(("loss", 1.0, 0)))
    assert (record.nonfinite, record.lag) == ({"loss": 1}, {"loss": 1})


@pytest.mark.parametrize("odd", [None, "text", torch.tensor([1.0, 2.0]), object()], ids=repr)
def test_a_scalar_that_is_no_number_costs_only_itself(odd: Any) -> None:
    record = Training().end_step({"kl": 0.1}, readings=readings(("loss", odd, 0), ("grad_norm", 2.0, 0)))
    assert (record.values["kl_per_token"], record.values["grad_norm"]) == (0.1, 2.0)
    assert "loss" not in record.values


# What is not finite


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_watched_signals_that_are_not_finite_are_noted(bad: float) -> None:
    record = Training().end_step({"kl": bad, "completions/mean_length": bad})
    assert record.nonfinite == {"kl_per_token": 1}, "a length that was not measured is no failure"


def test_rewards_that_were_lost_on_the_way_are_noted_with_their_function() -> None:
    record = Training().end_step({"reward": 0.5}, nonfinite_rewards={"judge": 3, "format": 1})
    assert record.nonfinite == {"reward": 4}
    assert "judge returned 3" in record.details["reward"]
    assert record.values["reward"] == 0.5


# Kinds, tokens, groups, phases


def test_a_step_without_a_generation_reuses_one() -> None:
    training = Training()
    kinds = [
        training.end_step(m).kind for m in ({"reward": 1.0}, {"kl": 0.1}, {"completions/mean_length": 9.0})
    ]
    assert kinds == [StepKind.GENERATE, StepKind.REUSE, StepKind.GENERATE]


@pytest.mark.parametrize("algorithm", ["dpo", "sft", "reward"])
def test_trainers_that_do_not_generate_have_one_kind(algorithm: str) -> None:
    assert Training(algorithm).end_step({"loss": 1.0}).kind is StepKind.GENERATE


def test_tokens_are_what_a_step_added() -> None:
    training = Training(tokens=1000.0)
    training.end_step({"num_tokens": 1500.0})
    assert training.end_step({"num_tokens": 1800.0}).values["tokens_per_second"] == 300.0, "in a second"
    assert training.tokens == 800.0
    training.end_step({"kl": 0.1})
    training.end_step({"num_tokens": 100.0})
    assert training.tokens == 800.0, "a counter that fell adds nothing"


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_tokens_that_are_not_finite_spoil_no_total(bad: float) -> None:
    training = Training()
    for total in (100.0, bad, 300.0):
        training.end_step({"num_tokens": total})
    assert training.tokens == 300.0


def test_groups_are_counted_from_the_rewards() -> None:
    record = Training().end_step({"reward": 1.0}, generation=Generation([[1.0, 1.0, 0.0, NAN]], None, 2))
    assert record.values["unscored_ratio"] == 0.25
    assert record.values["zero_advantage_groups"] == 1.0


def test_phases_are_the_step_s_own() -> None:
    training = Training()
    training.recorder.end(training.recorder.begin("generate"))
    assert [phase.phase for phase in training.end_step().phases] == ["generate"]
    assert training.end_step().phases == []


def test_ppo_is_corrected() -> None:
    training = Training("ppo", ppo=PPOCells(4, 2, 0.05, 0.1, 0))
    training.assembler.log({"val/ratio": 0.5, "objective/kl": 2.0}, 1)
    record = training.end_step(held=None)
    assert record.values["policy_ratio"] == 1.0
    assert record.values["kl_per_sequence"] == 2.0


# Logs


def test_without_lists_a_step_has_what_was_logged_before_it() -> None:
    training = Training("ppo")
    training.assembler.log({"objective/entropy": 1.0}, 1)
    assert training.end_step(held=None).values["sequence_entropy"] == 1.0
    assert "sequence_entropy" not in training.end_step(held=None).values, "once"


def test_what_only_the_log_says_is_a_step_late_and_says_so() -> None:
    training = Training()
    training.end_step({"kl": 0.1})
    training.assembler.log({"kl": 99.0, "entropy": 2.0}, 1)
    record = training.end_step({"kl": 0.2})
    assert record.values["kl_per_token"] == 0.2, "the log has an average of what the lists have"
    assert (record.values["entropy"], record.lag["entropy"]) == (2.0, 1)


def test_evaluation_is_handed_back_and_is_of_no_step() -> None:
    training = Training()
    assert training.assembler.log({"eval_reward": 0.5, "epoch": 1.0}, 1) == {"reward": 0.5}
    assert "reward" not in training.end_step().values


# From hell

values = st.one_of(
    st.floats(), st.integers(), st.none(), st.text(max_size=3), st.booleans(), st.lists(st.floats(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.floats(), max_size=2), st.tuples(st.floats(), st.floats()),
    st.sampled_from([torch.tensor(NAN), torch.tensor([1.0, 2.0]), object(), b"", (), 10**400]),
)  # fmt: skip
log_keys = st.one_of(
    st.sampled_from(
        ["loss", "kl", "reward", "num_tokens", "entropy", "rewards/f/mean", "count/chosen", "a_sum"]
    ),
    st.text(st.characters(), max_size=8),
)


@given(
    st.lists(st.lists(st.tuples(log_keys, values), max_size=6), max_size=6),
    st.sampled_from(["grpo", "bco", ""]),
)
def test_no_list_or_log_costs_a_step(steps: list[list[tuple[str, Any]]], algorithm: str) -> None:
    training = Training(algorithm)
    pipeline = Pipeline(RunIdentity("r", algorithm=algorithm), Settings(journal="off"), None)
    for measured in steps:
        for key, value in measured:
            training.lists[key].append(value)
        training.assembler.log(dict(measured), training.step)
        pipeline.step(training.end_step(), 0.0, 0.0)
    assert pipeline.snapshot.step == len(steps)
    assert math.isfinite(training.tokens)


@given(
    st.lists(st.lists(st.floats(), min_size=6, max_size=6), min_size=1, max_size=3),
    st.lists(st.text(max_size=30) | st.none() | st.lists(st.none()), max_size=6),
    st.integers(1, 7),
)
@example([[1e200, -1e200] * 3, [-1e200, 1e200] * 3], ["a"] * 6, 3)
@example([[math.inf, -math.inf] * 3], ["a"] * 6, 2)
@example([[1e308] * 6, [-1e308, 1e308] * 3], ["a", "b" * 20] * 3, 2)
def test_no_rewards_and_no_completions_cost_a_step(
    columns: list[list[float]], completions: list[Any], size: int
) -> None:
    names = [f"function {number}" for number in range(len(columns))]
    training = Training(samples=Samples())
    record = training.end_step({"kl": 0.1}, generation=Generation(columns, None, size, names, completions))
    assert record.values["kl_per_token"] == 0.1


def test_thousands_of_keys_are_capped_and_counted() -> None:
    training = Training()
    pipeline = Pipeline(RunIdentity("r", algorithm="grpo"), Settings(journal="off"), None)
    measured = {f"mystery/{number}": 1.0 for number in range(5000)}
    measured |= {f"rewards/function {number}/mean": 1.0 for number in range(500)}
    for _ in range(2):
        pipeline.step(training.end_step(measured), 0.0, 0.0)
    snapshot = pipeline.snapshot
    assert len(snapshot.unmapped) == MAX_TRAINER_METRICS
    assert len(snapshot.reward_functions) == MAX_REWARD_FUNCTIONS
    assert snapshot.dropped["key"] == 5000 - MAX_TRAINER_METRICS
    assert snapshot.dropped["reward_function"] == 500 - MAX_REWARD_FUNCTIONS


def test_series_that_were_there_first_stay() -> None:
    training = Training()
    pipeline = Pipeline(RunIdentity("r", algorithm="grpo"), Settings(journal="off"), None)
    pipeline.step(training.end_step({"first": 1.0}), 0.0, 0.0)
    pipeline.step(training.end_step({f"later/{number}": 1.0 for number in range(100)}), 0.0, 0.0)
    pipeline.step(training.end_step({"first": 2.0}), 0.0, 0.0)
    assert pipeline.snapshot.unmapped["first"] == 2.0


@given(
    st.dictionaries(st.text(st.characters(), max_size=5), st.floats(), max_size=5), st.floats(), st.floats()
)
def test_every_record_can_be_written_down(unmapped: dict[str, float], loss: float, reward: float) -> None:
    training = Training()
    record = training.end_step({**unmapped, "reward": reward}, readings=readings(("loss", loss, 0)))
    assert json.dumps(step_record(record))


def test_every_watched_signal_is_noted_when_it_fails() -> None:
    watched = [signal.name for signal in SIGNALS if signal.watch_nonfinite]
    record = Training("").end_step(readings=readings(*((name, NAN, 0) for name in watched)))
    assert record.nonfinite == dict.fromkeys(watched, 1)
