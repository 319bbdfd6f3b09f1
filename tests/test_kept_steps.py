"""The other ranks keep the steps that rank 0 keeps: through a real c10d store, and whatever becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from rlhf_otel import faults, kept_steps
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.exporters.chrome_trace import TracedStep
from rlhf_otel.kept_steps import TOLD, Following, Telling
from rlhf_otel.records import Anomaly, RunIdentity, StepRecord
from rlhf_otel.slow_steps import read_steps
from rlhf_otel.sources.agreement import Agreement
from rlhf_otel.step_traces import REMEMBERED_STEPS, StepTraces


class Lost:
    """A store whose server is gone."""

    def check(self, keys: Sequence[str]) -> bool:
        raise dist.DistNetworkError("Broken pipe")

    set = check


@pytest.fixture
def agreement() -> Agreement:
    return Agreement(dist.HashStore())


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_steps, "LOOK_S", 0.0)


def record(step: int) -> StepRecord:
    return StepRecord(step, 0.0, StepKind.GENERATE, step * 10**9, step * 10**9 + 100, 10**18 + step * 10**9)


def anomaly(step: int) -> Anomaly:
    return Anomaly(
        "LossSpike", Severity.WARNING, "loss", 9.0, 1.0, 12.0, "zscore", 20.0, step, step, 10**18, "cause", "remedy"
    )  # fmt: skip


def traces(folder: Path, rank: int, agreement: Agreement | None) -> StepTraces:
    found = StepTraces(RunIdentity("r", rank=rank, world_size=2), folder, 100)
    if agreement is not None:
        found.share(agreement, "traces/0")
    return found


def offer(to: StepTraces, *steps: int, anomalous: int = 0) -> None:
    for step in steps:
        to.offer(record(step), None, [anomaly(step)] if step == anomalous else [], failed=False)


def kept(folder: Path, rank: int) -> dict[int, str]:
    steps: Sequence[TracedStep] = read_steps(folder / f"trace-rank{rank}.json").steps
    assert len({step.step for step in steps}) == len(steps), "no step twice"
    return {step.step: step.kept_because for step in steps}


def told(to: Following) -> list[tuple[int, str]]:
    return to.look()


def test_choices_are_heard_once_and_in_order(agreement: Agreement) -> None:
    rank_0, other = Telling(agreement, "k"), Following(agreement, "k")
    assert told(other) == []
    rank_0.tell([(3, "before_anomaly"), (4, "anomaly")])
    assert told(other) == [(3, "before_anomaly"), (4, "anomaly")]
    assert told(other) == []
    rank_0.tell([(9, "slow")])
    assert told(other) == [(9, "slow")]


def test_the_store_holds_the_last_choices_alone(agreement: Agreement) -> None:
    rank_0 = Telling(agreement, "k")
    for step in range(10 * TOLD):
        rank_0.tell([(step, "slow")])
    assert [step for step, _ in told(Following(agreement, "k"))] == list(range(9 * TOLD, 10 * TOLD))
    assert len(agreement.said("k") or "") < 2000


def test_the_last_word_is_waited_for_within_a_bound(agreement: Agreement) -> None:
    rank_0, other = Telling(agreement, "k"), Following(agreement, "k")
    rank_0.tell([(3, "slow")])
    assert other.last_word(patience_s=0.0) == [(3, "slow")]
    rank_0.tell([(4, "failed")], ended=True)
    assert other.last_word(patience_s=600.0) == [(4, "failed")]


def test_another_rank_keeps_what_rank_0_keeps(agreement: Agreement, tmp_path: Path) -> None:
    first, other = traces(tmp_path, 0, agreement), traces(tmp_path, 1, agreement)
    offer(first, *range(1, 9), anomalous=7)
    offer(other, *range(1, 12))
    first.end()
    other.end()
    expected = {1: "first", 4: "before_anomaly", 5: "before_anomaly", 6: "before_anomaly", 7: "anomaly"}
    assert kept(tmp_path, 0) == kept(tmp_path, 1) == expected


def test_a_rank_that_lags_keeps_the_step_when_it_comes(agreement: Agreement, tmp_path: Path) -> None:
    first, other = traces(tmp_path, 0, agreement), traces(tmp_path, 1, agreement)
    offer(first, *range(1, 9), anomalous=7)
    offer(other, *range(1, 6))
    assert kept(tmp_path, 1) == {1: "first", 4: "before_anomaly", 5: "before_anomaly"}
    offer(other, 6, 7, 8)
    assert kept(tmp_path, 1) == kept(tmp_path, 0)


def test_what_a_rank_kept_itself_is_not_kept_again(agreement: Agreement, tmp_path: Path) -> None:
    first, other = traces(tmp_path, 0, agreement), traces(tmp_path, 1, agreement)
    offer(other, *range(1, 6), anomalous=5)
    offer(first, *range(1, 6), anomalous=5)
    offer(other, 6)
    offer(other, 7, anomalous=7)
    assert kept(tmp_path, 1) == {
        1: "first", 2: "before_anomaly", 3: "before_anomaly", 4: "before_anomaly", 5: "anomaly",
        6: "before_anomaly", 7: "anomaly",
    }  # fmt: skip


def test_what_is_no_longer_remembered_is_counted(
    agreement: Agreement, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = traces(tmp_path, 1, agreement)
    lost: list[int] = []

    class Exporter:
        def lose(self, spans: int) -> None:
            lost.append(spans)

        def export(self, *_: Any) -> None: ...

    monkeypatch.setattr(other, "_exporter", Exporter())
    offer(other, *range(1, REMEMBERED_STEPS + 10))
    Telling(agreement, "traces/0").tell([(1, "slow"), (5, "slow"), (60, "slow")])
    offer(other, REMEMBERED_STEPS + 10)
    assert lost == [1, 1]
    assert 60 in kept(tmp_path, 1)


def test_a_store_that_is_gone_is_one_fault_and_costs_no_step_of_ones_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = faults.counts().get("traces", 0)
    for rank in (0, 1):
        alone = traces(tmp_path, rank, Agreement(Lost()))
        offer(alone, *range(1, 9), anomalous=7)
        alone.end()
        assert kept(tmp_path, rank)[7] == "anomaly"
    assert faults.counts()["traces"] - before == 2, "one a rank"
    assert "each rank keeps its own choice" in caplog.text


def test_a_store_that_ends_with_rank_0_is_no_fault(tmp_path: Path) -> None:
    before = faults.counts().get("traces", 0)
    assert Following(Agreement(Lost()), "k").last_word() == []
    assert faults.counts().get("traces", 0) == before
