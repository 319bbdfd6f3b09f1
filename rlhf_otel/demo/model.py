"""The tiny policy: built from a config, then pretrained for a few seconds until it is about half right."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from rlhf_otel.demo import language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH: Final = 32
LEARNING_RATE: Final = 4e-3
IGNORED: Final = -100
"""The label that transformers leaves out of the loss."""


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return an untrained causal language model of two layers."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def pretrained(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> LlamaForCausalLM:
    """Imitate clumsy demonstrations, and stop half-way: what reinforcement learning starts from."""
    set_seed(seed)
    model = build(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    for batch in _batches(tokenizer, seed, steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model


def _batches(tokenizer: PreTrainedTokenizerFast, seed: int, count: int) -> Iterator[dict[str, torch.Tensor]]:
    rng = random.Random(seed)
    for _ in range(count):
        drawn = language.questions(BATCH, rng)
        prompts = [language.prompt(numbers) for numbers in drawn]
        answers = [f"{language.demonstration(numbers, rng)} {language.EOS}" for numbers in drawn]
        ended = tokenizer(answers, add_special_tokens=False)
        yield _batch(tokenizer(prompts)["input_ids"], ended["input_ids"])


def _batch(prompts: list[list[int]], answers: list[list[int]]) -> dict[str, torch.Tensor]:
    """Join prompts to answers, padded on the right; only the answer, with its end, is learned."""
    pairs = list(zip(prompts, answers, strict=True))
    return {
        "input_ids": _padded([prompt + answer for prompt, answer in pairs], 0),
        "attention_mask": _padded([[1] * len(prompt + answer) for prompt, answer in pairs], 0),
        "labels": _padded([[IGNORED] * len(prompt) + answer for prompt, answer in pairs], IGNORED),
    }


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
