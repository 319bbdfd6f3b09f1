"""Replaying a bundle's step: the same loss of the same trainer class, on the same weights and inputs."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from rlhf_otel.errors import BundleError
from rlhf_otel.guard.bundle import Bundle
from rlhf_otel.guard.probe import Finding, Probe

TRUSTED: Final = ("trl.", "transformers.")
"""Packages that classes named in a bundle are imported from: a bundle must not choose what is run."""

ROWS: Final[dict[str, dict[str, Any]]] = {
    "GRPOTrainer": {"prompt": "."},
    "RLOOTrainer": {"prompt": "."},
    "SFTTrainer": {"text": ". ."},
    "DPOTrainer": {"prompt": ".", "chosen": ".", "rejected": "."},
    "RewardTrainer": {"chosen": ". .", "rejected": "."},
}
"""A row that each trainer's constructor accepts; nothing is trained on it."""

_LEFT_OUT: Final = frozenset({
    "output_dir", "logging_dir", "generation_batch_size", "use_vllm", "deepspeed", "fsdp", "fsdp_config", "push_to_hub",
    "resume_from_checkpoint", "accelerator_config", "parallelism_config", "local_rank", "ddp_backend", "report_to",
    "eval_strategy", "load_best_model_at_end", "use_cpu", "fp16", "bf16_full_eval", "gradient_checkpointing_kwargs",
    "activation_checkpointing", "activation_checkpointing_kwargs",
    "torch_compile", "dataloader_num_workers", "save_strategy", "hub_model_id", "log_completions", "tf32",
})  # fmt: skip
"""Arguments of where and how training ran, rather than of what it computed."""


class Replayed(NamedTuple):
    """What a replay found."""

    trainer: str
    losses: list[float]
    grad_norm: float | None
    findings: list[Finding]
    """In the order in which they arose, of the first micro-batch that has any, then of all gradients."""
    micro_batch: int | None
    """Which micro-batch that was, from 0."""


def replay(bundle: Bundle, model: str | None = None) -> Replayed:
    """Replay the step; ``model`` names weights to use instead of the bundle's. Raises BundleError."""
    if not bundle.micro_batches:
        raise BundleError(
            f"{bundle.path} holds no micro-batches: {'; '.join(bundle.facts.get('left_out', []))}"
        )
    if bundle.facts.get("content") == "numbers":
        raise BundleError(
            f"{bundle.path} holds numbers alone, from which no step can be replayed: "
            "train with guard_content='tokens'"
        )
    source = model or bundle.model
    if source is None:
        raise BundleError(
            f"{bundle.path} holds no weights: name a checkpoint of about that step with --model"
        )
    with _trainer(bundle, str(source)) as (name, trainer):
        try:
            return _replay(bundle, trainer, name)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise BundleError(f"{name} cannot compute its loss from {bundle.path}: {error!r}") from error


def _replay(bundle: Bundle, trainer: Any, name: str) -> Replayed:
    losses: list[float] = []
    findings: list[Finding] = []
    where: int | None = None
    model = trainer.model.train()
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = bundle.facts["trainer"].get("accumulation_steps", 1)
    for index, (kept, states) in enumerate(zip(bundle.micro_batches, bundle.random_states, strict=True)):
        inputs = {key: value for key, value in kept.items() if key != "policy_logps"}
        inputs = {key: _to(value, trainer.accelerator.device) for key, value in inputs.items()}
        _restore_random(states)
        probe = Probe(model)
        losses.append(probe.run(inputs, partial(trainer.compute_loss, model, dict(inputs))))
        if probe.findings and where is None:
            findings, where = probe.findings, index
    last = Probe(model)
    norm = last.look_at_gradients()
    return Replayed(name, losses, norm, findings + last.findings, where)


def _restore_random(states: Mapping[str, Any]) -> None:
    import torch

    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


def _to(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


# --- the trainer


@contextmanager
def _trainer(bundle: Bundle, source: str) -> Iterator[tuple[str, Any]]:
    """The trainer, made anew by its own constructor, and its class's name."""
    if bundle.tokenizer is None:
        raise BundleError(f"{bundle.path} holds no tokenizer")
    facts = bundle.facts["trainer"]
    trainer_class, arguments_class = _nearest(facts["classes"]), _nearest(facts["arguments_classes"])
    name = trainer_class.__name__
    if name not in ROWS:
        raise BundleError(f"no replay of {facts['classes'][0]}; these can be replayed: {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory(prefix="rlhf_otel-reproduce-") as scratch:
        try:
            arguments = _arguments(arguments_class, facts["arguments"], scratch)
            trainer = _constructed(trainer_class, arguments, source, bundle.tokenizer)
        except (OSError, ValueError, TypeError, ImportError) as error:
            raise BundleError(f"{name} cannot be set up from {bundle.path}: {error}") from error
        if facts["arguments"].get("use_vllm"):  # it sampled: the loss weighs by what it said of its tokens
            trainer.use_vllm = True
        yield name, trainer


def _nearest(classes: list[str]) -> Any:
    """The first of these classes that is TRL's or transformers' own."""
    path = next((path for path in classes if path.startswith(TRUSTED)), None)
    if path is None:
        raise BundleError(f"{classes[0]} is derived from no class of TRL or transformers")
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BundleError(f"{path} is not installed here: {error}") from None


def _constructed(trainer_class: Any, arguments: Any, source: str, tokenizer: Path) -> Any:
    import transformers
    from datasets import Dataset
    from transformers import AutoTokenizer

    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    name = trainer_class.__name__
    rewards = {"reward_funcs": [_no_reward]} if list(ROWS[name]) == ["prompt"] else {}
    return trainer_class(
        model=_model(source, name),
        args=arguments,
        train_dataset=Dataset.from_list([ROWS[name]]),
        processing_class=AutoTokenizer.from_pretrained(tokenizer),
        **rewards,
    )


def _no_reward(completions: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(completions)


def _arguments(arguments_class: Any, given: Mapping[str, Any], scratch: str) -> Any:
    """The trainer's arguments as far as they say what is computed."""
    import torch

    local = {"output_dir": scratch, "report_to": "none", "use_cpu": not torch.cuda.is_available()}
    local |= {"gradient_checkpointing": False, "bf16": bool(given.get("bf16"))}
    usual = arguments_class(**local).to_dict()  # some change on the way in, and could not go in again
    known = {field.name for field in fields(arguments_class) if field.init} - _LEFT_OUT - set(local)
    kept = {key: value for key, value in given.items() if key in known and value != usual.get(key)}
    return arguments_class(**local, **kept)


def _model(source: str, name: str) -> Any:
    import transformers

    if (Path(source) / "adapter_config.json").exists():
        import peft

        return peft.AutoPeftModelForCausalLM.from_pretrained(source, is_trainable=True)
    head = "SequenceClassification" if name == "RewardTrainer" else "CausalLM"
    return getattr(transformers, f"AutoModelFor{head}").from_pretrained(source, dtype="auto")
