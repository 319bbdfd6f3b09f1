"""Who is running, by what launchers leave in the environment."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer
from trl import DPOTrainer, GRPOTrainer

from rlhf_otel.settings import Settings
from rlhf_otel.sources import run_identity
from rlhf_otel.sources.run_identity import algorithm_of, identify, launcher_run_id

LAUNCHER_VARIABLES = (
    "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT",
    "KUBERNETES_SERVICE_HOST", "JOB_NAME", "PET_MASTER_ADDR", "MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK",
    "WORLD_SIZE",
)  # fmt: skip
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in LAUNCHER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(run_identity, "_attempts", {})


def given_environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)


def trainer(**arguments: Any) -> Any:
    found = {
        "output_dir": "/data/runs/my run/",
        "run_name": None,
        "process_index": 0,
        "local_process_index": 0,
    }
    return SimpleNamespace(args=SimpleNamespace(**{**found, "world_size": 1, **arguments}))


# The id


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"TORCHELASTIC_RUN_ID": "job-7"}, "job-7"),
        ({"TORCHELASTIC_RUN_ID": "none"}, ""),  # torchrun --master-port
        ({"TORCHELASTIC_RUN_ID": ""}, ""),
        ({"SLURM_JOB_ID": "123"}, "123"),
        ({"SLURM_JOB_ID": "123", "SLURM_STEP_ID": "2"}, "123.2"),
        ({"SLURM_JOB_ID": "123", "SLURM_STEP_ID": "batch"}, "123"),
        ({"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "123"}, "123"),
        ({"TORCHELASTIC_RUN_ID": "job-7", "SLURM_JOB_ID": "123"}, "job-7"),
        ({"JOB_NAME": "not in Kubernetes"}, ""),
        ({**KUBERNETES, "JOB_NAME": "llama-grpo"}, "llama-grpo"),
        ({**KUBERNETES, "MASTER_ADDR": "llama-grpo-master-0"}, "llama-grpo"),
        ({**KUBERNETES, "MASTER_ADDR": "llama-grpo-worker-0.ns.svc"}, "llama-grpo"),
        ({**KUBERNETES, "PET_MASTER_ADDR": "llama-node-0-0.llama"}, "llama"),
        ({**KUBERNETES, "MASTER_ADDR": "10.1.2.3"}, ""),
        (KUBERNETES, ""),
    ],
)
def test_the_id_that_a_launcher_gave(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    given_environment(monkeypatch, **variables)
    assert launcher_run_id() == expected
    if expected:
        assert identify(Settings()).run_id == expected
        assert identify(Settings()).agreed


def test_a_setting_comes_before_a_launcher_and_that_before_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resumed = {"run_id": "earlier"}
    assert identify(Settings(), resumed=resumed).run_id == "earlier"
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    assert identify(Settings(), resumed=resumed).run_id == "123"
    assert identify(Settings(run_id="mine"), resumed=resumed).run_id == "mine"


def test_without_any_id_it_is_name_and_time_and_different_each_time() -> None:
    one, other = identify(Settings(), trainer()), identify(Settings(), trainer())
    assert re.fullmatch(r"my-run-\d{8}-\d{6}-[0-9a-f]{6}", one.run_id)
    assert one.run_id != other.run_id
    assert one.agreed
    assert (one.attempt, other.attempt) == (1, 1)


def test_ranks_that_know_no_common_id_say_so() -> None:
    ranks = [identify(Settings(), trainer(process_index=rank, world_size=2)) for rank in (0, 1)]
    assert [identity.agreed for identity in ranks] == [False, False]
    assert [identity.rank for identity in ranks] == [0, 1]


def test_ranks_that_share_a_rendezvous_share_a_name_without_a_process_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_environment(monkeypatch, MASTER_ADDR="node-1", MASTER_PORT="29500")
    ids = {identify(Settings(), trainer(process_index=rank, world_size=3)).run_id for rank in range(3)}
    assert ids == {"my-run-node-1-29500"}


# Ranks


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 0, 1)),
        ({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, (3, 1, 8)),
        ({"RANK": "-1", "LOCAL_RANK": "-1"}, (0, 0, 1)),
        ({"RANK": "three", "WORLD_SIZE": ""}, (0, 0, 1)),
    ],
)
def test_ranks_without_a_trainer_are_the_environment_s(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: tuple[int, int, int]
) -> None:
    given_environment(monkeypatch, **variables)
    found = identify(Settings())
    assert (found.rank, found.local_rank, found.world_size) == expected


def test_a_trainer_knows_its_rank_better(monkeypatch: pytest.MonkeyPatch) -> None:
    given_environment(monkeypatch, RANK="3", LOCAL_RANK="1", WORLD_SIZE="8")
    found = identify(Settings(), trainer(process_index=5, local_process_index=2, world_size=16))
    assert (found.rank, found.local_rank, found.world_size) == (5, 2, 16)


# Attempts


@pytest.mark.parametrize(
    ("variables", "earlier", "expected"),
    [
        ({}, None, 1),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, None, 3),
        ({"SLURM_RESTART_COUNT": "1"}, None, 2),
        ({"SLURM_RESTART_COUNT": "1", "TORCHELASTIC_RESTART_COUNT": "2"}, None, 4),
        ({"SLURM_RESTART_COUNT": "x"}, None, 1),
        ({}, 4, 5),
        ({"SLURM_RESTART_COUNT": "1"}, 4, 5),
        ({"SLURM_RESTART_COUNT": "9"}, 4, 10),
    ],
)
def test_an_attempt_is_one_more_than_anybody_counted(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], earlier: int | None, expected: int
) -> None:
    given_environment(monkeypatch, **variables)
    resumed = None if earlier is None else {"run_id": "r", "attempt": earlier}
    assert identify(Settings(run_id="r"), resumed=resumed).attempt == expected


def test_a_second_training_of_the_same_run_is_another_attempt() -> None:
    attempts = [identify(Settings(run_id=run)).attempt for run in ("a", "a", "b", "a")]
    assert attempts == [1, 2, 1, 3]


# What is running


@pytest.mark.parametrize(
    ("cls", "expected"), [(GRPOTrainer, "grpo"), (DPOTrainer, "dpo"), (Trainer, "trainer"), (dict, "")]
)
def test_an_algorithm_is_the_trainer_s_class_or_what_it_inherits_from(cls: type, expected: str) -> None:
    mine = type("MyVeryOwnTrainer", (cls,), {})
    assert algorithm_of(cls.__new__(cls)) == expected
    assert algorithm_of(mine.__new__(mine)) == expected
    assert algorithm_of(None) == ""


def test_what_is_known_of_a_run() -> None:
    found = trainer()
    found.model = SimpleNamespace(config=SimpleNamespace(_name_or_path="org/model", model_type="llama"))
    settings = Settings(run_id="r", run_name="name", team="t", owner="o", cluster="c")
    identity = identify(settings, found)
    known = (identity.model, identity.run_name, identity.team, identity.owner, identity.cluster)
    assert known == ("org/model", "name", "t", "o", "c")


def test_a_model_without_a_name_is_called_by_its_type() -> None:
    found = trainer()
    found.model = SimpleNamespace(config=SimpleNamespace(_name_or_path="", model_type="llama"))
    assert identify(Settings(), found).model == "llama"


@given(st.text())
def test_any_output_directory_makes_a_name_that_fits_a_label_and_a_file(directory: str) -> None:
    name = identify(Settings(), trainer(output_dir=directory)).run_name
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)


def test_a_trainer_without_anything_is_a_run_too() -> None:
    identity = identify(Settings(), SimpleNamespace())
    assert identity.run_name == "run"
    assert (identity.algorithm, identity.model, identity.rank) == ("", "", 0)
