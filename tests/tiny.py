"""A real GRPO trainer that is small enough to be trained in every test: about 30 ms a step on one core.

The model is untrained and knows the demo's toy language by its vocabulary alone. What is observed of it is as
real as of any other: TRL generates, scores, computes losses and steps.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer

from rlhf_otel.demo import language

GROUP = 4
"""Completions of one prompt."""
COMPLETIONS = 8
"""Completions of one micro-batch: two groups."""
COMPLETION_TOKENS = 8

RewardFunction = Callable[..., Any]

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()


def variety(completions: list[str], **_: Any) -> list[float]:
    """Share of words that differ from each other."""
    return [len(set(text.split())) / COMPLETION_TOKENS for text in completions]


def numbers(completions: list[str], **_: Any) -> list[float]:
    """Share of words that are numbers."""
    return [sum(word.isdigit() for word in text.split()) / COMPLETION_TOKENS for text in completions]


def build_trainer(
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    *,
    reward_funcs: Sequence[RewardFunction] = (variety, numbers),
    trainer_class: type[GRPOTrainer] = GRPOTrainer,
    eval_prompts: int = 0,
    **arguments: Any,
) -> GRPOTrainer:
    """Return a trainer whose files go to ``folder``; ``arguments`` are those of GRPOConfig.

    The same arguments give the same run, bit for bit.
    """
    torch.set_num_threads(1)  # faster than two for matrices this small
    tokenizer = language.tokenizer()
    config = GRPOConfig(**{**_defaults(folder), **arguments})
    with contextlib.redirect_stderr(io.StringIO()):  # the bar of saving a model
        trainer = trainer_class(
            model=_base_model(folder, tokenizer),
            reward_funcs=list(reward_funcs),
            args=config,
            train_dataset=language.dataset(64, seed=0),
            eval_dataset=language.dataset(eval_prompts, seed=1) if eval_prompts else None,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _defaults(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "max_steps": 30,
        "per_device_train_batch_size": COMPLETIONS,
        "num_generations": GROUP,
        "max_completion_length": COMPLETION_TOKENS,
        "beta": 0.05,
        "learning_rate": 1e-3,
        "logging_steps": 50,
        "save_strategy": "no",
        "seed": 0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _base_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> str:
    """Save an untrained model: TRL loads it twice, as the policy and as the reference."""
    directory = folder / "base"
    if not directory.exists():
        transformers.set_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=64,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        model.save_pretrained(directory)
    return str(directory)
