"""Tokenizers, policies and reward models from the hub or from disk."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rlhf_otel.errors import ConfigurationError

logger = logging.getLogger("rlhf_otel")


def tokenizer(name: str) -> Any:
    """With a padding token, on the left, as generation needs it. Raises ConfigurationError where there is none."""
    from transformers import AutoTokenizer

    found = _loaded(AutoTokenizer.from_pretrained, name)
    if found.pad_token is None:
        found.pad_token = found.eos_token
    found.padding_side = "left"
    return found


def policy(name: str) -> Any:
    """A causal language model in full precision: precision is the trainer's affair."""
    import torch
    from transformers import AutoModelForCausalLM

    return _loaded(AutoModelForCausalLM.from_pretrained, name, dtype=torch.float32)


def scorer(name: str, padding: int) -> Any:
    """A model with one score, whose head is new where ``name`` has none."""
    import torch
    from transformers import AutoModelForSequenceClassification

    found = _loaded(
        AutoModelForSequenceClassification.from_pretrained, name, dtype=torch.float32, num_labels=1
    )
    found.config.pad_token_id = padding
    return found


def reward_scorer(name: str | None, model: str, padding: int) -> Any:
    """The reward model, or an untrained one of the policy's kind, which is said."""
    if name is None:
        logger.warning(
            "no reward_model is configured: an untrained head on %s scores, which rewards nothing in particular. "
            "Good to see a run; set reward_model, or reward_functions, to train",
            model,
        )
    return scorer(name or model, padding)


def as_function(model: Any, processing: Any) -> Callable[..., list[float]]:
    """A reward model as a TRL reward function, on the device that it is on."""
    import torch

    def reward_model(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        batch = processing(texts, return_tensors="pt", padding=True, truncation=True)
        batch.pop("token_type_ids", None)
        with torch.inference_mode():
            scores: list[float] = model(**batch.to(model.device)).logits[:, 0].float().tolist()
        return scores

    model.eval()
    return reward_model


def _loaded(load: Callable[..., Any], name: str, **more: Any) -> Any:
    try:
        return load(name, **more)
    except (OSError, ValueError) as error:
        hint = "give a local path where the hub cannot be reached"
        raise ConfigurationError(
            f"the model {name!r} cannot be loaded: {str(error).splitlines()[0]}; {hint}"
        ) from error
