"""Log dicts, from TRL's own to those from hell: nothing raises, and what is a number goes to one place."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.sources.trl_keys import FAMILIES, UNKNOWN, family_of
from rlhf_otel.sources.trl_keys.common import IGNORED_KEYS, TOKENS_KEY
from rlhf_otel.sources.trl_logs import MappedLogs, Slot, as_number, classify, map_logs

ALGORITHMS = ["", *(algorithm for family in FAMILIES for algorithm in family.algorithms)]
KNOWN_KEYS = sorted(
    {key for family in (*FAMILIES, UNKNOWN) for key in family.keys} | {TOKENS_KEY} | IGNORED_KEYS
)


class Hostile:
    """Looks like a tensor, and answers with errors."""

    def item(self) -> float:
        raise RuntimeError("no")

    def __float__(self) -> float:
        raise ValueError("no")


class OnAccelerator:
    """A tensor that waits for a device when it is read."""

    device = torch.device("cuda", 0)

    def item(self) -> float:
        pytest.fail("read from a device")

    __float__ = item


NUMBERS: list[tuple[Any, float]] = [
    (1, 1.0),
    (0.5, 0.5),
    (math.inf, math.inf),
    (-math.inf, -math.inf),
    (np.float32(0.5), 0.5),
    (np.int64(3), 3.0),
    (np.array(2.0), 2.0),
    (np.array([2.0]), 2.0),
    (torch.tensor(2.0), 2.0),
    (torch.tensor([[2.0]], requires_grad=True), 2.0),
    (torch.tensor(2, dtype=torch.int64), 2.0),
    (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
    (Decimal("0.5"), 0.5),
    (Fraction(1, 2), 0.5),
]
NO_NUMBERS: list[Any] = [
    None, True, False, "0.5", b"0.5", "", [], [1.0], {}, {"loss": 1.0}, (1.0,), object(), Hostile(), OnAccelerator(),
    1j, 10**400, np.array([1.0, 2.0]), np.array([]), torch.tensor([1.0, 2.0]), torch.tensor([]),
    torch.empty((), device="meta"), lambda: 1.0, range(3),
]  # fmt: skip

keys = st.one_of(
    st.sampled_from(KNOWN_KEYS),
    st.sampled_from(KNOWN_KEYS).map("eval_{}".format),
    st.text(st.characters(), max_size=12),
    st.text(st.characters(), max_size=12).map("rewards/{}".format),
    st.text(st.characters(), max_size=12).map("rewards/{}/std".format),
    st.text(st.characters(), max_size=12).map("eval_{}".format),
    st.none() | st.integers() | st.floats() | st.tuples(st.integers()) | st.binary(max_size=3),
)
anything = st.one_of(
    st.floats(),
    st.integers(),
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from(NO_NUMBERS[6:]),
    st.sampled_from([number for number, _ in NUMBERS]),
    st.recursive(st.floats(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)),
)


def places(mapped: MappedLogs) -> list[dict[str, Any]]:
    return [mapped.values, mapped.unmapped, mapped.evaluation]


@pytest.mark.parametrize(("raw", "expected"), NUMBERS, ids=repr)
def test_numbers_of_all_kinds_are_read(raw: Any, expected: float) -> None:
    found = as_number(raw)
    assert found == expected
    assert type(found) is float


@pytest.mark.parametrize("raw", [math.nan, np.float64("nan"), torch.tensor(math.nan)], ids=repr)
def test_nan_is_a_number(raw: Any) -> None:
    found = as_number(raw)
    assert found is not None
    assert math.isnan(found)


@pytest.mark.parametrize("raw", NO_NUMBERS, ids=lambda raw: repr(raw)[:30])
def test_what_is_no_number_is_left_out(raw: Any) -> None:
    assert as_number(raw) is None
    mapped = map_logs({"loss": raw, "reward": 1.0, "mystery": raw, "eval_loss": raw, "rewards/f/mean": raw})
    assert mapped == MappedLogs(values={"reward": 1.0})


@given(st.dictionaries(keys, anything, max_size=20), st.sampled_from(ALGORITHMS))
def test_no_log_dict_raises_and_only_floats_come_out(logs: dict[Any, Any], algorithm: str) -> None:
    mapped = map_logs(logs, algorithm)
    for place in places(mapped):
        assert all(type(key) is str and type(value) is float for key, value in place.items())
    assert mapped.values.keys() <= SIGNAL_BY_NAME.keys()
    assert mapped.evaluation.keys() <= SIGNAL_BY_NAME.keys()
    assert all(type(number) is float for pair in mapped.reward_functions.values() for number in pair)


@given(st.dictionaries(keys, st.floats(), max_size=20), st.sampled_from(ALGORITHMS))
def test_every_number_under_a_name_goes_to_one_place(logs: dict[Any, float], algorithm: str) -> None:
    mapped = map_logs(logs, algorithm)
    names = [key for key in logs if isinstance(key, str)]
    slots = [classify(key, algorithm)[0] for key in names]

    assert len(mapped.unmapped) == slots.count(Slot.UNMAPPED)
    assert (mapped.tokens is not None) == (Slot.TOKENS in slots)
    assert bool(mapped.values) == (Slot.SIGNAL in slots)
    assert bool(mapped.evaluation) == (Slot.EVALUATION in slots)
    assert bool(mapped.reward_functions) == (
        Slot.REWARD_FUNCTION_MEAN in slots or Slot.REWARD_FUNCTION_STD in slots
    )


@given(keys.filter(lambda key: isinstance(key, str)), st.sampled_from(ALGORITHMS))
def test_evaluation_is_never_a_training_signal(key: str, algorithm: str) -> None:
    mapped = map_logs({f"eval_{key}": 1.0}, algorithm)
    assert not mapped.values
    assert not mapped.reward_functions
    assert mapped.tokens is None


def test_a_reward_function_s_name_is_whatever_is_between() -> None:
    names = ["accuracy", "größe", "a/b", "mean", "org/model-name", "two\nlines", "{}"]
    logs = {
        f"rewards/{name}/{what}": value for name in names for what, value in (("std", 0.1), ("mean", 0.5))
    }
    assert map_logs(logs, "grpo").reward_functions == dict.fromkeys(names, (0.5, 0.1))


def test_the_old_spelling_of_a_reward_function_is_its_mean() -> None:
    (mean, deviation) = map_logs({"rewards/accuracy": 0.5}, "grpo").reward_functions["accuracy"]
    assert mean == 0.5
    assert math.isnan(deviation), "unknown is not 0"


def test_summaries_of_the_whole_run_are_no_step() -> None:
    assert map_logs(dict.fromkeys(IGNORED_KEYS, 1.0)) == MappedLogs()
    assert map_logs({"eval_runtime": 1.0, "eval_samples_per_second": 1.0}) == MappedLogs()


def test_several_spellings_of_a_quantity_are_one_signal() -> None:
    for key in ("completion_length", "completions/mean_length"):
        assert map_logs({key: 7.0}, "grpo").values == {"completion_length": 7.0}


def test_thousands_of_keys_are_sorted_and_none_is_remembered_for_ever() -> None:
    logs = {f"key/{number}": float(number) for number in range(10_000)}
    assert map_logs(logs).unmapped == logs
    info = classify.cache_info()
    assert info.maxsize is not None
    assert info.currsize <= info.maxsize


def test_a_family_is_chosen_by_algorithm_and_a_stranger_is_read_by_spelling() -> None:
    assert family_of("grpo").keys["kl"] == "kl_per_token"
    assert family_of("rloo").keys["kl"] == "kl_per_token_sampled"
    assert family_of("something new").name == UNKNOWN.name
