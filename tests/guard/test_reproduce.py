"""Bundles: what is in them, what is not, reading damaged ones, and the step replayed."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from failing import BAD_CALL, bundles, failing_trainer, telemetry

from rlhf_otel.cli import commands
from rlhf_otel.errors import BundleError
from rlhf_otel.guard.bundle import read

CONTENT = ("prompt_ids", "completion_ids")


def made(folder: Path, **settings: Any) -> Path:
    arguments = settings.pop("arguments", {})
    bad_calls = settings.pop("bad_calls", ())
    failing_trainer(folder, [telemetry(**settings)], *bad_calls, **arguments).train()
    return bundles(folder)[0]


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("tokens"), guard_content="tokens")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("numbers"))


@pytest.fixture
def copy(with_tokens: Path, tmp_path: Path) -> Path:
    path = tmp_path / with_tokens.name
    shutil.copytree(with_tokens, path)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["reproduce", *map(str, arguments)])


# --- what is in a bundle


def test_a_bundle_says_what_happened(with_tokens: Path) -> None:
    facts = read(with_tokens).facts
    assert facts["step"] == BAD_CALL
    assert facts["grad_norm"] in ("NaN", "Infinity")
    assert facts["run"]["algorithm"] == "grpo"
    assert facts["trainer"]["classes"][0] == "trl.trainer.grpo_trainer:GRPOTrainer"
    rewards = facts["generation"]["rewards"]["sometimes_huge"]
    assert len(rewards) == 8
    assert rewards[0] == pytest.approx(3e38)
    assert len(facts["generation"]["advantages"]) == 8
    assert [before["step"] for before in facts["steps_before"]] == [1, 2, 3]
    assert all("reward" in before["values"] for before in facts["steps_before"])
    assert facts["versions"]["torch"] == torch.__version__


def test_its_tensors_are_those_of_the_micro_batch(with_tokens: Path) -> None:
    (batch,) = read(with_tokens).micro_batches
    assert batch["advantages"].shape == (8,)
    assert batch["policy_logps"].shape == batch["completion_ids"].shape
    assert batch["ref_per_token_logps"].shape == batch["completion_ids"].shape
    assert read(with_tokens).random_states[0]["cpu"].dtype is torch.uint8


def test_only_its_owner_may_read_it(with_tokens: Path) -> None:
    assert with_tokens.parent.stat().st_mode & 0o077 == 0
    assert with_tokens.stat().st_mode & 0o077 == 0


def test_without_being_asked_it_holds_no_completions(numbers: Path) -> None:
    (batch,) = read(numbers).micro_batches
    assert not set(CONTENT) & set(batch)
    assert {"advantages", "completion_mask", "ref_per_token_logps", "policy_logps"} <= set(batch)
    assert not (numbers / "model").exists()
    assert not (numbers / "tokenizer").exists()
    assert not {"prompts", "completions"} & set(read(numbers).facts["generation"])


def test_token_ids_are_not_text(with_tokens: Path) -> None:
    assert not {"prompts", "completions"} & set(read(with_tokens).facts["generation"])


def test_texts_are_kept_when_asked_for(tmp_path: Path) -> None:
    generation = read(made(tmp_path, guard_content="text")).facts["generation"]
    assert len(generation["prompts"]) == len(generation["completions"]) == 8
    assert all(isinstance(text, str) for text in generation["completions"])


# --- the step replayed


def test_the_first_value_that_is_not_finite_is_found(with_tokens: Path) -> None:
    result = run(with_tokens)
    assert result.exit_code == 0, result.output
    assert "The first value that is not finite of micro-batch 0 arises" in result.output
    assert "backward" in result.output
    assert "2.25e+38" in result.output


def test_the_replay_computes_the_very_loss_of_the_run(with_tokens: Path) -> None:
    result = run(with_tokens, "--format", "json")
    found = json.loads(result.output)
    assert found["losses"] == pytest.approx(read(with_tokens).facts["losses"], rel=1e-5)
    assert found["findings"][0]["stage"] == "backward"
    assert found["micro_batch"] == 0


def test_of_several_micro_batches_it_names_the_one(tmp_path: Path) -> None:
    # Each micro-batch has its own generation here, so that the second call is the second micro-batch.
    arguments = {"gradient_accumulation_steps": 2, "steps_per_generation": 1, "max_steps": 3}
    path = made(tmp_path, guard_content="tokens", bad_calls=(4,), arguments=arguments)
    assert len(read(path).micro_batches) == 2
    assert read(path).facts["step"] == 2
    assert json.loads(run(path, "--format", "json").output)["micro_batch"] == 1


def test_a_step_that_stays_finite_is_told_apart(copy: Path) -> None:
    tensors = torch.load(copy / "tensors.pt", weights_only=True)
    tensors["micro_batches"][0]["advantages"].clamp_(-1.0, 1.0)
    torch.save(tensors, copy / "tensors.pt")
    result = run(copy)
    assert result.exit_code == 3, result.output
    assert "everything stayed finite" in result.output


def test_damaged_weights_come_first(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model" / "model.safetensors")
    weights["model.norm.weight"][0] = torch.nan
    save_file(weights, copy / "model" / "model.safetensors", metadata={"format": "pt"})
    result = run(copy)
    assert result.exit_code == 0, result.output
    assert "in the weights model.norm.weight" in result.output


def test_weights_can_be_those_of_a_checkpoint(copy: Path, with_tokens: Path) -> None:
    shutil.rmtree(copy / "model")
    result = run(copy)
    assert isinstance(result.exception, BundleError)
    assert "--model" in str(result.exception)
    assert run(copy, "--model", with_tokens / "model").exit_code == 0


def test_the_weights_of_rank_0_serve_the_other_ranks(copy: Path) -> None:
    other = copy.with_name(copy.name.replace("rank-0", "rank-1"))
    shutil.copytree(copy, other)
    shutil.rmtree(other / "model")
    assert read(other).model == copy / "model"


def test_numbers_alone_are_shown_and_not_replayed(numbers: Path) -> None:
    looked = run(numbers, "--look")
    assert looked.exit_code == 0
    assert "advantages: (8,), -7.5e+37 to 2.25e+38" in looked.output
    refused = run(numbers)
    assert isinstance(refused.exception, BundleError)
    assert "guard_content='tokens'" in str(refused.exception)


# --- what is no bundle


def test_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(BundleError, match="no bundle"):
            read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 99}', "{}"])
def test_damaged_facts(copy: Path, text: str) -> None:
    (copy / "bundle.json").write_text(text)
    with pytest.raises(BundleError):
        read(copy)


def test_damaged_tensors(copy: Path) -> None:
    whole = (copy / "tensors.pt").read_bytes()
    (copy / "tensors.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BundleError, match="cannot be read"):
        read(copy)


def test_inputs_that_are_missing(copy: Path) -> None:
    tensors = torch.load(copy / "tensors.pt", weights_only=True)
    del tensors["micro_batches"][0]["completion_ids"]
    torch.save(tensors, copy / "tensors.pt")
    result = run(copy)
    assert isinstance(result.exception, BundleError)
    assert "completion_ids" in str(result.exception)


@pytest.mark.parametrize("part", ["model/config.json", "tokenizer/tokenizer.json", "model/model.safetensors"])
def test_a_part_that_is_missing(copy: Path, part: str) -> None:
    (copy / part).unlink()
    result = run(copy)
    assert isinstance(result.exception, BundleError), result.exception


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("code from a bundle was run",))


def test_no_code_from_a_bundle_is_run(copy: Path) -> None:
    torch.save({"micro_batches": [Hostile()]}, copy / "tensors.pt")
    with pytest.raises(BundleError):
        read(copy)
    (copy / "tensors.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(BundleError):
        read(copy)


@pytest.mark.parametrize(
    "path",
    ["os:system", "evil.trl:GRPOTrainer", "trl.no_such:Trainer", "transformers.trainer:Trainer"],
)
def test_no_class_is_imported_that_a_bundle_chooses(copy: Path, path: str) -> None:
    facts = json.loads((copy / "bundle.json").read_text())
    facts["trainer"]["classes"] = [path]
    (copy / "bundle.json").write_text(json.dumps(facts))
    result = run(copy)
    assert isinstance(result.exception, BundleError)
