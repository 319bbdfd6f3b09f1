"""Two real ranks under torchrun: what rank 0 decides happens at the same step on both."""

from __future__ import annotations

import json
from pathlib import Path

import stopping_rank
from tiny import build_trainer
from torchrun import two_ranks


def test_both_ranks_save_and_stop_at_the_same_step(tmp_path: Path) -> None:
    build_trainer(tmp_path)  # the model that both ranks load
    two_ranks(stopping_rank.__file__, tmp_path)
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    stopped_at = ranks[0]["step"]
    assert stopping_rank.BROKEN_FROM <= stopped_at < stopping_rank.MAX_STEPS
    assert ranks[1]["step"] == stopped_at
    assert (tmp_path / "out" / f"checkpoint-{stopped_at}").is_dir()
    assert [rank["outcome"] for rank in ranks] == ["interrupted", "interrupted"]
    assert "NonFinite" in ranks[0]["reason"]
    assert ranks[0]["reason"] == ranks[1]["reason"]
