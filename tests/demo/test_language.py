"""The toy language: answers end, rewards tell good from bad by degrees, and a policy can learn it."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from rlhf_otel.demo import language, rewards

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

RIGHT = "1 2 3 4 5"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_prompt_and_answer_survive_the_tokenizer() -> None:
    tokenizer = language.tokenizer()
    numbers = ["7", "3", "12", "5", "9"]
    ids = tokenizer(language.prompt(numbers))["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "sort 7 3 12 5 9 ="
    assert language.answer(numbers) == "3 5 7 9 12"


def test_special_tokens_are_four_different_ones() -> None:
    tokenizer = language.tokenizer()
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert len(special) == 4


def test_demonstrations_are_clumsy_but_leave_no_number_out() -> None:
    rng = random.Random(0)
    drawn = language.questions(200, rng)
    spoken = [language.demonstration(numbers, rng) for numbers in drawn]
    perfect = mean(text == language.answer(numbers) for text, numbers in zip(spoken, drawn, strict=True))
    assert 0.05 < perfect < 0.6
    for text, numbers in zip(spoken, drawn, strict=True):
        assert sorted(word for word in text.split() if word not in language.FILLERS) == sorted(numbers)


def test_dataset_is_the_same_for_the_same_seed() -> None:
    assert language.dataset(8, seed=3).to_list() == language.dataset(8, seed=3).to_list()
    assert language.dataset(8, seed=3).to_list() != language.dataset(8, seed=4).to_list()


@pytest.mark.parametrize(
    ("completion", "correctness", "form", "brevity"),
    [
        (RIGHT, 1.0, 1.0, 1.0),
        ("1 2 3 5 4", 0.6, 1.0, 1.0),
        ("um 1 2 3 4 5", 1.0, 5 / 6, 0.8),
        ("1 2", 0.4, 1.0, 1.0),
        ("1 2 3 4 5 6 7 8 9 10", 0.5, 1.0, 0.0),
        ("um er well", 0.0, 0.0, 1.0),
        ("", 0.0, 0.0, 1.0),
    ],
)
def test_rewards_are_graded(completion: str, correctness: float, form: float, brevity: float) -> None:
    given = [function(completions=[completion], answer=[RIGHT]) for function in rewards.REWARD_FUNCTIONS]
    assert given == [pytest.approx([correctness]), pytest.approx([form]), pytest.approx([brevity])]


def test_reward_lies_between_zero_and_one() -> None:
    assert sum(rewards.REWARD_WEIGHTS) == pytest.approx(1.0)


def test_pretraining_is_deterministic() -> None:
    from rlhf_otel.demo.model import pretrained

    tokenizer = language.tokenizer()
    first, second = (pretrained(tokenizer, seed=5, steps=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_grpo_improves_a_policy_that_starts_half_right(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from rlhf_otel.demo.train import Settings, build_trainer

    rows: list[dict[str, float]] = []

    class Recorder(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            rows.append({key: values[-1] for key, values in trainer._metrics["train"].items()})

    trainer = build_trainer(Settings(tmp_path, steps=72), callbacks=[Recorder()])
    trainer.train()
    first, last = rows[:15], rows[-15:]
    assert 0.4 < mean(row["reward"] for row in first) < 0.7
    assert mean(row["reward"] for row in last) > mean(row["reward"] for row in first) + 0.05
    assert mean(row["frac_reward_zero_std"] for row in rows) < 0.1
    assert mean(row["completions/clipped_ratio"] for row in rows) < 0.05
    assert max(row["kl"] for row in rows) < 0.5
    logged = trainer.state.log_history
    assert [entry["step"] for entry in logged if "eval_reward" in entry] == [24, 48, 72]
    assert (tmp_path / "checkpoints" / "checkpoint-72").is_dir()
