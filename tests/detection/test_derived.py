"""Signals that follow from others: there when their inputs are, and never in the place of a measured one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.derived import add_derived, add_evaluation_gap
from rlhf_otel.detection.detector import Detector
from rlhf_otel.records import PhaseInterval, StepRecord

NAN = math.nan
NUMBERS = st.floats(-1e9, 1e9)


def derived(functions: dict[str, tuple[float, float]] | None = None, **values: float) -> dict[str, float]:
    record = StepRecord(1, 0.0, StepKind.GENERATE, 0, 1, 1, dict(values), dict(functions or {}))
    add_derived(record)
    return record.values


def test_a_step_without_inputs_has_nothing_derived() -> None:
    assert derived() == {}
    assert derived(loss=1.0) == {"loss": 1.0}


def test_a_function_whose_mean_is_nan_scored_nothing() -> None:
    assert derived({"a": (1.0, 0.1), "b": (NAN, NAN)})["unscored_ratio"] == 1.0
    assert derived({"a": (1.0, 0.1)})["unscored_ratio"] == 0.0


def test_functions_without_spread_are_constant() -> None:
    found = derived({"a": (1.0, 0.0), "b": (1.0, 0.5), "c": (1.0, 0.0), "unknown": (1.0, NAN)})
    assert found["constant_reward_functions_ratio"] == pytest.approx(2 / 3)
    assert "constant_reward_functions_ratio" not in derived({"a": (1.0, NAN)})


def test_the_largest_function_s_share_is_by_magnitude() -> None:
    assert derived({"a": (-3.0, 0.1), "b": (1.0, 0.1)})["reward_function_share"] == 0.75
    assert "reward_function_share" not in derived({"a": (1.0, 0.1)}), "one has no share"
    assert "reward_function_share" not in derived({"a": (0.0, 0.1), "b": (0.0, 0.1)})


@given(st.dictionaries(st.text(max_size=3), st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=6))
def test_shares_are_shares(functions: dict[str, tuple[float, float]]) -> None:
    found = derived(functions)
    for name in ("reward_function_share", "constant_reward_functions_ratio", "unscored_ratio"):
        assert 0.0 <= found.get(name, 0.0) <= 1.0


def test_a_transfer_of_weights_that_raised_is_counted() -> None:
    record = StepRecord(1, 0.0, StepKind.GENERATE, 0, 1, 1)
    for phase, failed in (("weight_sync", True), ("weight_sync", False), ("loss", True)):
        record.phases.append(PhaseInterval(phase, "", 0, 10**9, -1, 0, failed))
    add_derived(record)
    assert record.values["weight_sync_failures"] == 1.0
    assert "WeightSyncFailing" in {anomaly.rule for anomaly in Detector().observe(record, {})}


def test_transfers_that_worked_leave_nothing_to_count() -> None:
    record = StepRecord(1, 0.0, StepKind.GENERATE, 0, 1, 1)
    record.phases.append(PhaseInterval("weight_sync", "", 0, 10**9, -1, 0, False))
    add_derived(record)
    assert "weight_sync_failures" not in record.values


def test_the_longest_call_of_a_reward_function() -> None:
    record = StepRecord(1, 0.0, StepKind.GENERATE, 0, 1, 1)
    for phase, seconds in (("reward_function", 1), ("reward_function", 3), ("loss", 9)):
        record.phases.append(PhaseInterval(phase, "", 0, seconds * 10**9, -1, 0, False))
    add_derived(record)
    assert record.values["reward_function_time"] == 3.0


def test_what_was_measured_stays() -> None:
    assert derived({"a": (NAN, NAN)}, unscored_ratio=0.25)["unscored_ratio"] == 0.25


@given(NUMBERS, NUMBERS)
def test_the_evaluation_gap_is_relative_to_the_larger(reward: float, evaluated: float) -> None:
    values = {"reward": reward}
    add_evaluation_gap(values, evaluated)
    if reward == evaluated == 0:
        assert "evaluation_gap" not in values
        return
    assert -2.0 <= values["evaluation_gap"] <= 2.0
    assert (values["evaluation_gap"] > 0) == (reward > evaluated) or reward == pytest.approx(evaluated)


@pytest.mark.parametrize(("values", "evaluated"), [({}, 1.0), ({"reward": 1.0}, None)])
def test_no_gap_without_both(values: dict[str, float], evaluated: float | None) -> None:
    before = dict(values)
    add_evaluation_gap(values, evaluated)
    assert values == before
