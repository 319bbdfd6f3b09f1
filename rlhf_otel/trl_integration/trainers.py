"""TRL's trainer for each algorithm."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from rlhf_otel.errors import ConfigurationError
from rlhf_otel.trl_integration import data, models
from rlhf_otel.trl_integration.config import ALGORITHMS, TRLIntegrationConfig

_PPO_PLACES: Final = ("trl.experimental.ppo", "trl")
_NAMES: Final = {"grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "kto": "KTO", "sft": "SFT", "reward": "Reward"}

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Parts(NamedTuple):
    """What a trainer is made of."""

    config: TRLIntegrationConfig
    model: str
    tokenizer: Any
    dataset: Any
    callbacks: Sequence[Any]
    watched: Wrap
    """Has a reward function watched."""


def build(
    config: TRLIntegrationConfig, model: str, dataset: str, callbacks: Sequence[Any], watched: Wrap
) -> Any:
    """A trainer that is ready to train. Raises ConfigurationError where TRL or the data do not have what it needs."""
    make = _ppo if config.algorithm == "ppo" else _others
    classes = _ppo_classes() if config.algorithm == "ppo" else _classes(_NAMES[config.algorithm])
    tokenizer = models.tokenizer(model)
    rows = data.prepared(data.load(dataset), config.algorithm, tokenizer, config.max_prompt_tokens)
    return make(Parts(config, model, tokenizer, rows, callbacks, watched), *classes)


def _ppo_classes() -> tuple[Any, Any]:
    import trl

    for place in _PPO_PLACES:
        try:
            module = importlib.import_module(place)
        except ImportError:
            continue
        if hasattr(module, "PPOTrainer"):
            return module.PPOTrainer, module.PPOConfig
    others = ", ".join(name for name in ALGORITHMS if name != "ppo")
    raise ConfigurationError(
        f"TRL {trl.__version__} has no PPO: install one that has it (pip install 'trl==1.12.0'), or choose another "
        f"algorithm: {others}"
    )


def _classes(name: str) -> tuple[Any, Any]:
    import trl

    for place in ("trl", f"trl.experimental.{name.lower()}"):
        try:
            module = importlib.import_module(place)
            return getattr(module, f"{name}Trainer"), getattr(module, f"{name}Config")
        except (ImportError, AttributeError):
            continue
    raise ConfigurationError(f"TRL {trl.__version__} has no {name}Trainer")


def _arguments(config: TRLIntegrationConfig) -> dict[str, Any]:
    """Arguments that all trainers have."""
    return {
        "output_dir": config.output_dir,
        "learning_rate": config.learning_rate,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "logging_steps": config.logging_steps,
        "seed": config.seed,
        "bf16": config.precision == "bf16",
        "fp16": config.precision == "fp16",
        "use_cpu": config.device == "cpu",
        "report_to": "none",
    }


def _given(**arguments: Any) -> dict[str, Any]:
    """Those that are set; TRL has defaults for the others."""
    return {name: value for name, value in arguments.items() if value is not None}


def _ppo(parts: Parts, trainer: Any, arguments: Any) -> Any:
    from transformers import DataCollatorWithPadding

    config, padding = parts.config, parts.tokenizer.pad_token_id
    steps = config.max_steps * config.batch_size * config.gradient_accumulation_steps
    args = arguments(
        **_arguments(config),
        total_episodes=steps,
        response_length=config.max_completion_tokens,
        local_rollout_forward_batch_size=config.batch_size,
        num_sample_generations=0,
        stop_token="eos",
        **_given(
            num_ppo_epochs=config.ppo_epochs,
            num_mini_batches=config.mini_batches,
            cliprange=config.clip_range,
            kl_coef=config.kl_coefficient,
        ),
    )
    return trainer(
        args=args,
        processing_class=parts.tokenizer,
        model=models.policy(parts.model),
        ref_model=models.policy(parts.model),
        reward_model=models.reward_scorer(config.reward_model, parts.model, padding),
        value_model=models.scorer(config.reward_model or parts.model, padding),
        train_dataset=parts.dataset,
        eval_dataset=parts.dataset.select(range(min(len(parts.dataset), config.batch_size))),
        data_collator=DataCollatorWithPadding(parts.tokenizer),
        callbacks=list(parts.callbacks),
    )


def _others(parts: Parts, trainer: Any, arguments: Any) -> Any:
    config = parts.config
    args = arguments(**_arguments(config), max_steps=config.max_steps, **_own_arguments(config))
    model = (
        models.scorer(parts.model, parts.tokenizer.pad_token_id)
        if config.algorithm == "reward"
        else models.policy(parts.model)
    )
    more = {"reward_funcs": _reward_functions(parts)} if config.algorithm in ("grpo", "rloo") else {}
    if config.algorithm == "kto":
        more["ref_model"] = models.policy(parts.model)
    return trainer(
        model=model,
        args=args,
        train_dataset=parts.dataset,
        processing_class=parts.tokenizer,
        callbacks=list(parts.callbacks),
        **more,
    )


def _own_arguments(config: TRLIntegrationConfig) -> dict[str, Any]:
    if config.algorithm in ("grpo", "rloo"):
        return {
            "max_completion_length": config.max_completion_tokens,
            "num_generations": config.num_generations or _group(config),
            **_given(epsilon=config.clip_range, beta=config.kl_coefficient),
        }
    length = {"max_length": config.max_prompt_tokens + config.max_completion_tokens}
    return length | _given(beta=config.kl_coefficient)


def _group(config: TRLIntegrationConfig) -> int:
    """The largest group of at most 8 that a batch can be split into."""
    batch = config.batch_size * config.gradient_accumulation_steps
    for size in range(8, 1, -1):
        if batch % size == 0:
            return size
    raise ConfigurationError(
        f"{config.algorithm} splits a batch of {batch} completions into groups: give an even batch_size, or num_generations"
    )


def _reward_functions(parts: Parts) -> list[Callable[..., Any]]:
    config = parts.config
    found = list(config.reward_functions)
    if config.reward_model is not None or not found:
        import torch

        scorer = models.reward_scorer(config.reward_model, parts.model, parts.tokenizer.pad_token_id)
        processing = models.tokenizer(config.reward_model or parts.model)
        on_gpu = torch.cuda.is_available() and config.device == "auto"
        found.append(models.as_function(scorer.to("cuda" if on_gpu else "cpu"), processing))
    return [parts.watched(function) for function in found]
