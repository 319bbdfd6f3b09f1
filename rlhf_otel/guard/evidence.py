"""What is kept of a bad update, gathered on the training thread while it is still there.

How much of the completions is kept is the user's choice: numbers alone (the default), token ids and weights too,
which a replay needs, or the text as well. Evidence has a bound in number and in size; the weights, its largest
part, are the first to be left out.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, Final

from rlhf_otel.guard.micro_batches import MicroBatch

NUMBERS_ONLY: Final = ("logps", "advantage", "mask", "reward", "ratio", "num_items", "margin")
"""Parts of names of inputs that tell nothing of a text."""
MAX_TEXT: Final = 64
"""Characters of a string among a trainer's attributes that is a setting rather than content."""
MIB: Final = 2**20


@dataclass(slots=True)
class Evidence:
    """One bad update."""

    step: int
    facts: dict[str, Any]
    """What goes into ``bundle.json``."""
    tensors: dict[str, Any] = field(default_factory=dict)
    """What goes into ``tensors.pt``: nested mappings and lists of tensors."""
    weights: dict[str, Any] | None = None
    model: Any = None
    tokenizer: Any = None


class Gatherer:
    """Gathers at most ``limit`` times, each time at most ``mib`` MiB."""

    def __init__(self, content: str, limit: int, mib: float, rank: int) -> None:
        self._content = content
        self._left = limit
        self._bytes = int(mib * MIB)
        self._rank = rank
        self._last_step = -1

    def gather(self, trainer: Any, step: int, norm: float, batches: list[MicroBatch]) -> Evidence | None:
        """What there is to know of the update of ``step``; None when there is enough evidence already."""
        if self._left <= 0 or step == self._last_step:  # PPO updates several times in a step
            return None
        self._left, self._last_step = self._left - 1, step
        left_out: list[str] = []
        facts = {
            "step": step,
            "time": time.time(),
            "grad_norm": norm,
            "learning_rate": _learning_rate(trainer),
            "content": self._content,
            "left_out": left_out,
            "trainer": _trainer_facts(trainer),
            "losses": [float(batch.loss) for batch in batches],
            "weights_not_finite": _not_finite(trainer.model),
            "generation": _generation(trainer, self._content == "text"),
        }
        evidence = Evidence(step, facts)
        budget = self._add_batches(evidence, batches, left_out)
        if self._content == "numbers":
            left_out.append("token ids, weights: guard_content is 'numbers'")
        else:
            self._add_model(evidence, trainer, budget, left_out)
        return evidence

    def _add_batches(self, evidence: Evidence, batches: list[MicroBatch], left_out: list[str]) -> int:
        """Add what losses were computed from; returns the bytes that are left."""
        if not batches:
            left_out.append("micro-batches: this trainer has no compute_loss to take them from")
        kept = [self._inputs(batch) for batch in batches]
        size = sum(_bytes(inputs) for inputs in kept)
        if size > self._bytes:
            left_out.append(f"micro-batches: {size / MIB:.0f} MiB are more than guard_bundle_mib")
            return self._bytes
        on_host = [{name: _to_host(value) for name, value in inputs.items()} for inputs in kept]
        states = [{name: _to_host(state) for name, state in batch.random_states.items()} for batch in batches]
        evidence.tensors = {"micro_batches": on_host, "random_states": states}
        return self._bytes - size

    def _inputs(self, batch: MicroBatch) -> dict[str, Any]:
        inputs = {
            name: value
            for name, value in batch.inputs.items()
            if hasattr(value, "numel") or isinstance(value, int | float)
        }
        if self._content == "numbers":
            inputs = {n: v for n, v in inputs.items() if any(part in n for part in NUMBERS_ONLY)}
        if batch.log_probabilities is not None:
            inputs["policy_logps"] = batch.log_probabilities
        return inputs

    def _add_model(self, evidence: Evidence, trainer: Any, budget: int, left_out: list[str]) -> None:
        evidence.model = model = trainer.accelerator.unwrap_model(trainer.model)
        evidence.tokenizer = getattr(trainer, "processing_class", None)
        if not hasattr(model, "save_pretrained"):
            left_out.append(f"weights: {type(model).__name__} has no save_pretrained")
            return
        if self._rank != 0:
            left_out.append("weights: rank 0 keeps them")
            return
        weights = _weights(model)
        size = _bytes(weights)
        if size > budget:
            left_out.append(f"weights: {size / MIB:.0f} MiB are more than guard_bundle_mib")
            return
        evidence.weights = {name: _to_host(value, copy=True) for name, value in weights.items()}


def _weights(model: Any) -> dict[str, Any]:
    """A model's state; of a PEFT model its adapter, which is all that training changes."""
    state: dict[str, Any] = model.state_dict()
    if not hasattr(model, "peft_config"):
        return state
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in state.items() if name in trained}


def _to_host(value: Any, copy: bool = False) -> Any:
    return value.detach().to("cpu", copy=copy) if hasattr(value, "numel") else value


def _bytes(tensors: dict[str, Any]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values() if hasattr(t, "numel"))


def _learning_rate(trainer: Any) -> float:
    return float(trainer.optimizer.param_groups[0]["lr"])


def _not_finite(model: Any) -> list[str]:
    """Names of parameters that hold NaN or infinity: the weights were damaged before this update."""
    return [name for name, weights in model.named_parameters() if not weights.detach().isfinite().all()]


def _generation(trainer: Any, text: bool) -> dict[str, Any]:
    """The last generation of all ranks: per completion its rewards and its advantage."""
    logs = getattr(trainer, "_logs", None)
    if not isinstance(logs, dict):
        return {}
    rewards = {name: list(column) for name, column in (logs.get("rewards") or {}).items()}
    found: dict[str, Any] = {"rewards": rewards, "advantages": list(logs.get("advantages") or ())}
    if text:
        found["prompts"] = [str(prompt) for prompt in logs.get("prompt") or ()]
        found["completions"] = [str(completion) for completion in logs.get("completion") or ()]
    return found


def _trainer_facts(trainer: Any) -> dict[str, Any]:
    args = trainer.args
    return {
        "classes": _classes(trainer),
        "arguments_classes": _classes(args),
        "arguments": _settings(args.to_dict()),
        "accumulation_steps": getattr(trainer, "current_gradient_accumulation_steps", 1),
    }


def _classes(thing: Any) -> list[str]:
    """Its class and the bases of that, nearest first."""
    return [f"{cls.__module__}:{cls.__qualname__}" for cls in type(thing).__mro__ if cls is not object]


def _settings(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in values.items() if _is_setting(value) and not name.endswith("_token")
    }


def _is_setting(value: Any) -> bool:
    """Whether it is plain data that a text is unlikely to hide in."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_setting(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_setting, value))
    return value is None or isinstance(value, int)
