"""Real trainers of TRL other than GRPO, small enough to be trained in a test: one layer of width 16.

Each function builds one trainer whose files go to ``folder``. The models are untrained; what is logged of them is
as real as of any other.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import datasets
import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

from rlhf_otel.demo import language

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()

STEPS: Final = 4
COMMON: Final[dict[str, Any]] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
}

Builder = Callable[..., Any]


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    """Arguments of every trainer's configuration."""
    torch.set_num_threads(1)
    transformers.set_seed(0)
    return {"output_dir": str(folder / "out"), **COMMON, **more}


def base_model(folder: Path, kind: type[Any] = LlamaForCausalLM, **more: Any) -> str:
    """The folder of a saved untrained model, with its tokenizer."""
    directory = folder / kind.__name__
    tokenizer = language.tokenizer()
    if not directory.exists():
        transformers.set_seed(0)
        with contextlib.redirect_stderr(io.StringIO()):
            kind(configuration(tokenizer, **more)).save_pretrained(directory)
            tokenizer.save_pretrained(directory)
    return str(directory)


def configuration(tokenizer: PreTrainedTokenizerFast, **more: Any) -> LlamaConfig:
    """One layer of width 16."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def load(folder: Path, kind: type[Any] = LlamaForCausalLM, **more: Any) -> Any:
    """The model itself, for trainers that take no path."""
    with contextlib.redirect_stderr(io.StringIO()):
        return kind.from_pretrained(base_model(folder, kind, **more))


def prompts(count: int = 32) -> list[str]:
    """Prompts of the toy language."""
    rows: list[str] = language.dataset(count, seed=0)["prompt"]
    return list(rows)


def pairs() -> Dataset:
    """Prompts with a chosen and a rejected completion that differ in kind."""
    asked = prompts()
    words = [word for word in language.tokenizer().get_vocab() if word.isalnum()]
    chosen = [" ".join(words[i % 5 : i % 5 + 4]) for i in range(len(asked))]
    rejected = [" ".join(words[-(i % 5) - 5 : -(i % 5) - 1]) for i in range(len(asked))]
    return Dataset.from_dict({"prompt": asked, "chosen": chosen, "rejected": rejected})


def length_reward(completions: Sequence[Any], **_: Any) -> list[float]:
    """Number of different words."""
    return [float(len(set(str(text).split()))) for text in completions]


def build(
    folder: Path, trainer: type[Any], config: type[Any], callbacks: Sequence[TrainerCallback], /, **parts: Any
) -> Any:
    """A trainer from its parts; ``config_arguments`` are those of its configuration."""
    settings = arguments(folder, **parts.pop("config_arguments", {}))
    parts.setdefault("processing_class", language.tokenizer())
    with contextlib.redirect_stderr(io.StringIO()):
        built = trainer(args=config(**settings), callbacks=list(callbacks), **parts)
    built.remove_callback(PrinterCallback)
    return built


def grpo(folder: Path, callbacks: Sequence[TrainerCallback], **more: Any) -> Any:
    """GRPO with one reward function."""
    settings = {"num_generations": 2, "max_completion_length": 8, "beta": 0.05, **more}
    return build(
        folder, trl.GRPOTrainer, trl.GRPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], config_arguments=settings,
        train_dataset=Dataset.from_dict({"prompt": prompts()}),
    )  # fmt: skip


def rloo(folder: Path, callbacks: Sequence[TrainerCallback], **more: Any) -> Any:
    """RLOO with one reward function."""
    settings = {"num_generations": 2, "max_completion_length": 8, **more}
    return build(
        folder, trl.RLOOTrainer, trl.RLOOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], config_arguments=settings,
        train_dataset=Dataset.from_dict({"prompt": prompts()}),
    )  # fmt: skip


def dpo(folder: Path, callbacks: Sequence[TrainerCallback], **more: Any) -> Any:
    """DPO on pairs."""
    return build(
        folder, trl.DPOTrainer, trl.DPOConfig, callbacks,
        model=base_model(folder), train_dataset=pairs(), config_arguments=more,
    )  # fmt: skip


def kto(folder: Path, callbacks: Sequence[TrainerCallback], **more: Any) -> Any:
    """KTO on the same pairs, which it takes apart."""
    try:
        from trl import KTOConfig, KTOTrainer
    except ImportError:
        from trl.experimental.kto import KTOConfig, KTOTrainer
    data = pairs().to_dict()
    completions = data["chosen"] + data["rejected"]
    unpaired = {
        "prompt": data["prompt"] * 2,
        "completion": completions,
        "label": [True] * len(data["chosen"]) + [False] * len(data["rejected"]),
    }
    return build(
        folder, KTOTrainer, KTOConfig, callbacks,
        model=base_model(folder), train_dataset=Dataset.from_dict(unpaired).shuffle(seed=0), config_arguments=more,
    )  # fmt: skip


def reward(folder: Path, callbacks: Sequence[TrainerCallback], **more: Any) -> Any:
    """A reward model on pairs."""
    data = pairs().remove_columns("prompt")
    return build(
        folder, trl.RewardTrainer, trl.RewardConfig, callbacks,
        model=base_model(folder, LlamaForSequenceClassification, num_labels=1), train_dataset=data, config_arguments=more,
    )  # fmt: skip


def sft(folder: Path, callbacks: Sequence[TrainerCallback], **more: Any) -> Any:
    """Supervised fine-tuning on plain text."""
    return build(
        folder, trl.SFTTrainer, trl.SFTConfig, callbacks,
        model=base_model(folder), train_dataset=Dataset.from_dict({"text": pairs()["chosen"]}), config_arguments=more,
    )  # fmt: skip


MAIN: Final[dict[str, Builder]] = {
    "grpo": grpo,
    "rloo": rloo,
    "dpo": dpo,
    "kto": kto,
    "reward": reward,
    "sft": sft,
}
