"""Two ranks whose model is sharded by FSDP2: signals, phases and their scopes are as they should be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_trainers
from torchrun import two_ranks

from rlhf_otel.exporters.journal import read_journal

SCRIPT = Path(__file__).parent / "sharded_rank.py"
TRAINED = {
    "sft": ({"loss", "grad_norm"}, {"data", "loss", "backward", "optimizer"}),
    "dpo": ({"loss", "grad_norm", "preference_accuracy"}, {"data", "optimizer"}),
    "grpo": ({"grad_norm", "reward", "entropy"}, {"generate", "reward_function", "optimizer"}),
}
"""Trainer to signals and phases that rank 0's journal must have."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    for name, rank in itertools.product(TRAINED, (0, 1)):
        (where := folder / f"{name}-{rank}").mkdir()
        tiny_trainers.base_model(where)  # of several ranks only the first would save it
    two_ranks(str(SCRIPT), folder, *TRAINED)
    return folder


def seen(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.parametrize("name", TRAINED)
def test_the_model_is_really_sharded_and_nothing_of_ours_fails(trained: Path, name: str) -> None:
    assert seen(trained, name) == [{"parameters": ["DTensor"], "faults": 0, "steps": 3}] * 2


@pytest.mark.parametrize("name", TRAINED)
def test_rank_0_records_signals_and_phases_and_which_of_these_wait_for_others(
    trained: Path, name: str
) -> None:
    signals, phases = TRAINED[name]
    run, *records = read_journal(trained / f"{name}-0" / "journal")
    steps = [record for record in records if record["type"] == "step"]

    assert {"forward", "optimizer", "policy_logprobs", "generate"} <= set(run["collective_phases"])
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert signals <= steps[-1]["values"].keys()
    assert steps[-1]["values"]["grad_norm"] > 0
    assert phases <= {phase[0] for step in steps for phase in step["phases"]}
