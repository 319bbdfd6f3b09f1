"""TRL 1.12, the last with PPO, and TRL 0.29: every key that their trainers log has a meaning there too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from environments import TEST_TIMEOUT_S, train
from other_versions import AT_0_29, AT_1_12, algorithm_of
from test_key_mapping import unexpected

from rlhf_otel.exporters.journal import read_journal

STEPS = 4
CASES = [("ppo", "1.12.", *case) for case in AT_1_12.items()]
CASES += [("trl029", "0.29.", *case) for case in AT_0_29.items()]
TASKS: dict[str, dict[str, dict[str, Any]]] = {
    "ppo": {name: {} for name in AT_1_12},
    "trl029": {
        **{name: {} for name in AT_0_29},
        "grpo:late": {"logging_steps": 1000},
        "sft:late": {"logging_steps": 1000},
    },
}


pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_TIMEOUT_S)]

Seen = tuple[Path, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seen]:
    """Where all trainers of an environment left their files, and what was seen of them; each runs once."""
    known: dict[str, Seen] = {}

    def of(name: str) -> Seen:
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            known[name] = folder, train(name, folder, TASKS[name])
        return known[name]

    return of


@pytest.mark.parametrize(("environment", "version", "name", "signals"), CASES)
def test_every_key_has_a_meaning(
    environment: str, version: str, name: str, signals: set[str], environments: Callable[[str], Seen]
) -> None:
    folder, seen = environments(environment)
    found, algorithm = seen[name], algorithm_of(name)
    assert "error" not in found, found["error"]
    logged = set().union(*found["history"]) - {"step"}

    assert found["versions"]["trl"].startswith(version)
    assert found["algorithm"] == algorithm
    assert len(logged) > 5
    assert not unexpected(logged, algorithm)
    assert not unexpected(found["unmapped"], algorithm)
    assert signals <= {signal for signal, value in found["values"].items() if value is not None}
    assert found["faults"] == 0
    assert found["outcome"] == "finished"
    assert [step["step"] for step in steps(folder / name)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("name", ["grpo:late", "sft:late"])
def test_gradient_norms_of_each_step_are_seen_though_trl_0_29_logs_later(
    name: str, environments: Callable[[str], Seen]
) -> None:
    folder, _ = environments("trl029")
    norms = [step["values"]["grad_norm"] for step in steps(folder / name)]

    assert all(norm > 0 for norm in norms)
    assert len(set(norms)) == len(norms) == STEPS


def steps(folder: Path) -> list[dict[str, Any]]:
    """The journal's steps."""
    return [record for record in read_journal(folder / "journal") if record["type"] == "step"]
