"""Two real ranks under torchrun: what rank 0 decides happens at the same step on both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import two_ranks
from tiny import build_trainer

TESTS = Path(__file__).parent.parent


def test_both_ranks_save_and_stop_at_the_same_step(tmp_path: Path) -> None:
    build_trainer(tmp_path)  # the model that both ranks load
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(two_ranks.__file__, str(tmp_path)),
    ]
    paths = [str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    stopped_at = ranks[0]["step"]
    assert two_ranks.BROKEN_FROM <= stopped_at < two_ranks.MAX_STEPS
    assert ranks[1]["step"] == stopped_at
    assert (tmp_path / "out" / f"checkpoint-{stopped_at}").is_dir()
    assert [rank["outcome"] for rank in ranks] == ["interrupted", "interrupted"]
    assert "NonFinite" in ranks[0]["reason"]
    assert ranks[0]["reason"] == ranks[1]["reason"]
