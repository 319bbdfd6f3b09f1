"""All ranks are the same run: by setting, by launcher, by checkpoint, or because rank 0 says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from otlp_receiver import free_port
from watching import HERE, PATIENCE_S, ROOT, torchrun

EARLIER = {"run_id": "of-the-checkpoint", "attempt": 3}
IN_KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
CASES: dict[str, tuple[dict[str, str], Any, str, int]] = {
    "nobody": ({}, None, "run-2", 1),
    "torchrun-none": ({"TORCHELASTIC_RUN_ID": "none"}, None, "run-2", 1),
    "setting": ({"RLHF_OTEL_RUN_ID": "mine", "SLURM_JOB_ID": "7"}, None, "mine", 1),
    "slurm": ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, None, "7.0", 1),
    "slurm-requeued": (
        {"SLURM_JOB_ID": "8", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "2"},
        None,
        "8.0",
        3,
    ),
    "kubeflow": ({**IN_KUBERNETES, "PET_MASTER_ADDR": "llama-grpo-master-0"}, None, "llama-grpo", 1),
    "kubernetes": ({**IN_KUBERNETES, "JOB_NAME": "llama"}, None, "llama", 1),
    "checkpoint": ({}, [EARLIER, EARLIER], "of-the-checkpoint", 4),
    "checkpoint-of-rank-0": ({}, [{**EARLIER, "run_id": "a"}, {}], "a", 4),
    "checkpoint-and-setting": ({"RLHF_OTEL_RUN_ID": "b"}, [{**EARLIER, "run_id": "b"}, {}], "b", 4),
    "checkpoint-of-nobody": ({}, [{}, {}], "run-2", 1),
}
"""Variables, what the checkpoint says by rank, the run id that both have (or its beginning), the attempt."""


def read(said: str) -> list[dict[str, Any]]:
    """What a rank said of each case."""
    line = next(line for line in reversed(said.splitlines()) if line.startswith("["))
    found: list[dict[str, Any]] = json.loads(line)
    return found


def environment(**variables: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("RLHF_OTEL_", "SLURM_"))}
    return {**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Of each case what two ranks said. They have a process group, and no launcher but their variables."""
    cases = [{"variables": variables, "resumed": resumed} for variables, resumed, _, _ in CASES.values()]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(HERE / "identity_script.py")],
            env=environment(**common, RANK=rank, LOCAL_RANK=rank, IDENTITY_TEST_CASES=json.dumps(cases)),
            cwd=tmp_path_factory.mktemp("rank"), stdout=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    try:
        rows = [read(process.communicate(timeout=PATIENCE_S)[0]) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    return {name: [row[index] for row in rows] for index, name in enumerate(CASES)}


def the_one(found: list[dict[str, Any]]) -> tuple[str, int]:
    """Run id and attempt, which both ranks have."""
    assert sorted(it["rank"] for it in found) == [0, 1]
    assert all(it["up"] for it in found)
    assert len({(it["run_id"], it["attempt"]) for it in found}) == 1, found
    return found[0]["run_id"], found[0]["attempt"]


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_are_the_same_run(case: str, said: dict[str, list[dict[str, Any]]]) -> None:
    _, _, expected, expected_attempt = CASES[case]
    run_id, attempt = the_one(said[case])
    assert run_id.startswith(expected) if expected.endswith("-2") else run_id == expected
    assert attempt == expected_attempt


def test_runs_without_any_id_differ(said: dict[str, list[dict[str, Any]]]) -> None:
    without = ("nobody", "torchrun-none", "checkpoint-of-nobody")
    assert len({the_one(said[case])[0] for case in without}) == len(without)


def by_torchrun(folder: Path, *options: str, **variables: str) -> tuple[str, int]:
    """Run id and attempt of two ranks that torchrun starts with these options."""
    case = json.dumps([{"variables": {}, "resumed": None}])
    command = [str(Path(sys.executable).parent / "torchrun"), *torchrun(*options)[1:]]
    done = subprocess.run(
        [*command, "--redirects", "1", "--log-dir", "logs", str(HERE / "identity_script.py")],
        env=environment(IDENTITY_TEST_CASES=case, **variables),
        cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    logs = [path.read_text() for path in (folder / "logs").rglob("stdout.log")]
    return the_one([read(text)[0] for text in logs if text.strip()])


@pytest.mark.slow
def test_torchrun_gives_an_id(tmp_path: Path) -> None:
    options = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--rdzv-id", "job-7")
    assert by_torchrun(tmp_path, *options) == ("job-7", 1)


@pytest.mark.slow
def test_a_restart_by_torchrun_is_another_attempt_of_the_same_run(tmp_path: Path) -> None:
    options = ("--standalone", "--max-restarts", "1")
    assert by_torchrun(tmp_path, *options, IDENTITY_TEST_CRASH="1", RLHF_OTEL_RUN_ID="r") == ("r", 2)
