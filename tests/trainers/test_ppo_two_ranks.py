"""PPO of TRL 1.12 on two real ranks: what TRL reduces over both, and what it does not, keep their meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from environments import TEST_TIMEOUT_S, train_on_two_ranks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_TIMEOUT_S)]

STEPS = 2
COMPLETIONS = 16
"""Of one rank in a step: four of a batch, four times accumulated."""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("ppo-ranks")
    twice = STEPS * 2  # a step has the episodes of both ranks
    found = train_on_two_ranks("ppo", folder, "ppo", ddp_backend="gloo", max_steps=twice)
    assert [rank.get("error") for rank in found] == [None, None]
    return found


def test_statistics_of_all_ranks_are_corrected_for_the_cells_of_all(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        said, values = rank["history"][-1], rank["values"]
        assert said["val/ratio"] == pytest.approx(0.5, abs=0.05), "TRL leaves half of the cells at 0"
        assert values["policy_ratio"] == pytest.approx(1.0, abs=0.1)
        assert said["val/ratio_var"] > 0.2
        assert values["policy_ratio_variance"] < 0.01
        assert values["entropy"] == pytest.approx(2 * said["policy/entropy_avg"])
    assert ranks[0]["values"]["policy_loss"] == ranks[1]["values"]["policy_loss"]


def test_end_tokens_are_those_of_a_rank_s_own_completions(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        said, values = rank["history"][-1], rank["values"]
        assert values["eos_tokens"] == said["val/num_eos_tokens"]
        assert values["eos_per_completion"] == said["val/num_eos_tokens"] / COMPLETIONS


def test_each_rank_has_its_phases_and_no_fault(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert rank["phases"]["rollout"] == rank["phases"]["update"] == STEPS
        assert rank["phases"]["forward"] == rank["phases"]["backward"] > 0
        assert rank["phase_seconds"]["generate"] > 0
        assert (rank["outcome"], rank["faults"], rank["anomalies"]) == ("finished", 0, {})
