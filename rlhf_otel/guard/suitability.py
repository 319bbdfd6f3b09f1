"""Whether the guard can protect a trainer: it must see whole, reduced gradients just before the optimizer does."""

from __future__ import annotations

from typing import Any

from rlhf_otel.errors import GuardError

_STEPS_IN_BACKWARD = "its optimizer steps inside the backward pass, where no update can be dropped"
_REASONS = {
    "DEEPSPEED": "DeepSpeed steps inside `backward`, where no update can be dropped; it has checks of its own",
    "FSDP": "FSDP shards the gradients, so that no rank sees all of them",
    "MEGATRON_LM": "Megatron-LM shards the gradients, so that no rank sees all of them",
    "XLA": "on XLA devices gradients are reduced inside the optimizer's step",
}


def require(trainer: Any) -> None:
    """Raise GuardError unless the guard can work here."""
    reason = why_not(trainer)
    if reason:
        raise GuardError(
            f"guard='drop' cannot protect this training: {reason}. Set guard='off' to train without."
        )


def why_not(trainer: Any) -> str:
    """Why the guard cannot work with ``trainer``, ready to train; empty when it can."""
    if trainer is None:
        return "the trainer was not found"
    accelerator = getattr(trainer, "accelerator", None)
    if accelerator is None:
        return "the trainer has no accelerator, which says how gradients are reduced"
    kind = getattr(accelerator.distributed_type, "value", str(accelerator.distributed_type))
    if kind != "NO" and not kind.startswith("MULTI_"):
        return _REASONS.get(kind, f"nothing is known about gradients under {kind}")
    if getattr(accelerator, "scaler", None) is not None:
        return "with fp16 the loss scaler drops such updates already, as a matter of routine"
    return _of_the_optimizer(trainer) or _of_the_model(trainer)


def _of_the_optimizer(trainer: Any) -> str:
    if "lomo" in str(getattr(trainer.args, "optim", "")) or "layerwise" in str(
        getattr(trainer.args, "optim", "")
    ):
        return _STEPS_IN_BACKWARD
    optimizer = inner_optimizer(trainer)
    if optimizer is None:
        return "the trainer has no optimizer"
    if not hasattr(optimizer, "register_step_pre_hook"):
        return f"{type(optimizer).__name__} is no torch optimizer: nothing can be done before its step"
    return ""


def _of_the_model(trainer: Any) -> str:
    if any(hasattr(parameter, "device_mesh") for parameter in trainer.model.parameters()):
        return "the model's parameters are sharded, so that no rank sees all gradients"
    return ""


def inner_optimizer(trainer: Any) -> Any:
    """The torch optimizer inside accelerate's."""
    optimizer: Any = getattr(trainer, "optimizer", None)
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
