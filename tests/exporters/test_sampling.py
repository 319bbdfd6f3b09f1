"""Which steps are kept, in which order, and for which reason."""

from __future__ import annotations

import pytest

from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.exporters.sampling import KeepPolicy, Reason
from rlhf_otel.records import Anomaly, StepRecord


def record(step: int) -> StepRecord:
    return StepRecord(step, 0.0, StepKind.GENERATE, step * 100, step * 100 + 100, 10**18 + step)


def anomaly(step: int) -> Anomaly:
    return Anomaly(
        "LossSpike",
        Severity.WARNING,
        "loss",
        9.0,
        1.0,
        12.0,
        "zscore",
        20.0,
        step,
        step,
        10**18,
        "cause",
        "remedy",
    )


def offer(
    policy: KeepPolicy, step: int, *, slow: bool = False, anomalous: bool = False, failed: bool = False
) -> list[tuple[int, str]]:
    anomalies = [anomaly(step)] if anomalous else []
    return [(kept.step, reason) for kept, reason in policy.offer(record(step), slow, anomalies, failed)]


def after_first(**settings: int) -> KeepPolicy:
    """A policy that has its first step behind it."""
    policy = KeepPolicy(**settings)
    offer(policy, 1)
    return policy


def test_first_step_is_kept_wherever_a_resumed_run_begins() -> None:
    assert offer(KeepPolicy(), 901) == [(901, "first")]


def test_healthy_steps_are_kept_one_in_k() -> None:
    policy = after_first(one_in=10)
    assert [kept for step in range(2, 41) for kept in offer(policy, step)] == [
        (step, "one_in_k") for step in (10, 20, 30, 40)
    ]


def test_ranks_keep_the_same_healthy_steps_even_when_one_started_later() -> None:
    early, late = after_first(one_in=7), KeepPolicy(one_in=7)
    offer(late, 15)
    assert [offer(early, step) for step in range(16, 60)] == [offer(late, step) for step in range(16, 60)]


def test_one_in_zero_keeps_no_healthy_step() -> None:
    policy = after_first(one_in=0)
    assert not any(offer(policy, step) for step in range(2, 500))


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"slow": True}, "slow"),
        ({"anomalous": True}, "anomaly"),
        ({"failed": True}, "failed"),
        ({"slow": True, "anomalous": True}, "anomaly"),
        ({"slow": True, "anomalous": True, "failed": True}, "failed"),
    ],
)
def test_the_gravest_reason_is_given(what: dict[str, bool], reason: str) -> None:
    policy = after_first()
    assert offer(policy, 2, **what)[-1] == (2, reason)


def test_steps_before_an_anomaly_come_first_in_order() -> None:
    policy = after_first()
    for step in range(2, 10):
        offer(policy, step)
    before = Reason.BEFORE_ANOMALY.value
    assert offer(policy, 10, anomalous=True) == [(7, before), (8, before), (9, before), (10, "anomaly")]


def test_no_step_is_given_out_twice() -> None:
    policy = after_first()
    for step in (2, 3, 4):
        offer(policy, step)
    offer(policy, 5, anomalous=True)
    assert offer(policy, 6, anomalous=True) == [(6, "anomaly")]


def test_before_counts_steps_and_not_records_that_are_still_at_hand() -> None:
    policy = after_first()
    for step in (2, 3):
        offer(policy, step)
    for step in (4, 5):
        offer(policy, step, slow=True)
    assert offer(policy, 6, anomalous=True) == [(3, "before_anomaly"), (6, "anomaly")]


def test_a_failed_step_alone_takes_nothing_from_before() -> None:
    policy = after_first()
    offer(policy, 2)
    assert offer(policy, 3, failed=True) == [(3, "failed")]
    assert offer(policy, 4, failed=True, anomalous=True) == [(2, "before_anomaly"), (4, "failed")]


def test_before_zero_keeps_only_the_anomalous_step() -> None:
    policy = after_first(before=0)
    offer(policy, 2)
    assert offer(policy, 3, anomalous=True) == [(3, "anomaly")]


def test_kept_is_counted_by_reason_from_zero() -> None:
    policy = KeepPolicy(one_in=10)
    assert policy.kept == dict.fromkeys((reason.value for reason in Reason), 0)
    for step in range(1, 21):
        offer(policy, step, slow=step == 5, anomalous=step == 13)
    assert policy.kept == {
        "failed": 0, "anomaly": 1, "slow": 1, "profiled": 0, "first": 1, "one_in_k": 2, "before_anomaly": 2,
    }  # fmt: skip


def test_a_profiled_step_is_kept_as_that_unless_there_is_more_to_say() -> None:
    policy = after_first()
    for step, slow, reason in ((2, False, "profiled"), (3, True, "slow")):
        record = StepRecord(step, 0.0, StepKind.GENERATE, 0, 1, 0, profile="/a/profile")
        assert [why for _, why in policy.offer(record, slow, [], False)] == [reason]


def test_sampling_is_known_before_the_step() -> None:
    policy = after_first(one_in=5)
    for step in range(2, 30):
        assert policy.samples(step) == bool(offer(policy, step))


@pytest.mark.parametrize("setting", ["one_in", "before"])
def test_negative_settings_are_refused_by_name(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{setting}=-1: allowed is an integer of 0 or more"):
        KeepPolicy(**{setting: -1})
