"""A slow reward function on one of two real ranks, explained by ``rlhf-otel trace`` alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from watching import launched, torchrun

from rlhf_otel.cli import commands

pytestmark = pytest.mark.slow
STEPS, SLOW_AT = 30, 20


def test_the_slow_rank_and_its_function_are_named_before_the_rank_that_waited(tmp_path: Path) -> None:
    variables = {"RLHF_OTEL_METRICS_PORT": "off", "RANK_TEST_PAUSE": f"1:{SLOW_AT}"}
    with launched(tmp_path / "job", torchrun(), STEPS, **variables) as job:
        assert job.wait() == 0, job.log
    (journal,) = (tmp_path / "job").rglob("journal-00000.jsonl")

    result = CliRunner().invoke(commands, ["trace", str(journal.parent), "--slowest", "1"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    said = [line for line in lines[lines.index("") + 1 :] if line]
    assert said[0].startswith(f"step {SLOW_AT} on rank 1 (generate): 2")
    assert said[1].split()[:2] == ["reward_function", "variety"]
    assert said[2].startswith(f"step {SLOW_AT} on rank 0 (generate): 2")
    assert "ranks wait for each other in it" in said[3]
