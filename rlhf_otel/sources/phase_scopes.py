"""Phases that are local by the catalogue, but wait for other ranks in the way that a trainer was set up."""

from __future__ import annotations

from typing import Any, Final

SHARDED: Final = frozenset({"FSDP", "DEEPSPEED", "MEGATRON_LM"})
"""Of ``accelerate``'s ``DistributedType``: each rank holds a part of the weights, or of the optimizer's state."""
OF_THE_MODEL: Final = frozenset(
    {"generate", "reference_logprobs", "policy_logprobs", "values", "forward", "optimizer"}
)
"""They gather weights, layer by layer, or reduce the gradient's norm where the model is sharded."""


def collective_phases(trainer: Any) -> tuple[str, ...]:
    """Names of the phases in which this trainer's ranks wait for each other, beside those of the catalogue."""
    found: set[str] = set()
    if _is_sharded(trainer):
        found |= OF_THE_MODEL
    if _samples_together(trainer):
        found.add("generate")
    if _dispatches_batches(trainer):
        found.add("data")
    return tuple(sorted(found))


def _is_sharded(trainer: Any) -> bool:
    kind = getattr(getattr(trainer, "accelerator", None), "distributed_type", None)
    return str(getattr(kind, "value", kind)) in SHARDED


def _samples_together(trainer: Any) -> bool:
    """vLLM as a server is asked by the main process alone, while the others wait for its answer; within a process,
    tensor parallelism couples the ranks of a group."""
    arguments = getattr(trainer, "args", None)
    if not getattr(trainer, "use_vllm", getattr(arguments, "use_vllm", False)):
        return False
    if getattr(trainer, "vllm_mode", getattr(arguments, "vllm_mode", None)) == "server":
        return True
    parallel = getattr(arguments, "vllm_tensor_parallel_size", 1)
    return isinstance(parallel, int) and parallel > 1


def _dispatches_batches(trainer: Any) -> bool:
    """Whether rank 0 reads for all, as ``accelerate`` does unasked with a data set that has no length."""
    asked = getattr(getattr(trainer, "accelerator", None), "dispatch_batches", None)
    if isinstance(asked, bool):
        return asked
    data = getattr(trainer, "train_dataset", None)
    return data is not None and not hasattr(data, "__len__")
