"""Two real ranks under torchrun: one has a bad micro-batch, both drop the update."""

from __future__ import annotations

import json
from pathlib import Path

import guarded_rank
import pytest
from click.testing import CliRunner
from failing import BAD_CALL, bundles
from tiny import build_trainer
from torchrun import two_ranks

from rlhf_otel.cli import commands
from rlhf_otel.guard.bundle import name_of


@pytest.mark.slow
def test_both_ranks_drop_the_same_update(tmp_path: Path) -> None:
    build_trainer(tmp_path)  # the model that both ranks load
    two_ranks(guarded_rank.__file__, tmp_path, "drop")
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert [rank["dropped"] for rank in ranks] == [1, 1]
    assert [rank["step"] for rank in ranks] == [8, 8]
    assert all(rank["finite"] for rank in ranks)
    assert ranks[0]["weights"] == ranks[1]["weights"]
    paths = bundles(tmp_path)
    assert [path.name for path in paths] == [name_of(BAD_CALL, 1, rank) for rank in (0, 1)]
    codes = [CliRunner().invoke(commands, ["reproduce", str(path)]).exit_code for path in paths]
    assert codes == [3, 0]  # finite on rank 0; the cause is in what rank 1 had


@pytest.mark.slow
def test_without_the_guard_neither_rank_survives(tmp_path: Path) -> None:
    build_trainer(tmp_path)
    with pytest.raises(AssertionError, match="probability tensor"):
        two_ranks(guarded_rank.__file__, tmp_path, "off")
