"""What can be configured of a training: every field has an effect with the algorithm, or is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rlhf_otel.errors import ConfigurationError

ALGORITHMS: Final = ("ppo", "grpo", "rloo", "dpo", "kto", "sft", "reward")
_ONLINE: Final = frozenset({"ppo", "grpo", "rloo"})
_GROUPS: Final = frozenset({"grpo", "rloo"})
_ONLY_FOR: Final[dict[str, frozenset[str]]] = {
    "ppo_epochs": frozenset({"ppo"}),
    "mini_batches": frozenset({"ppo"}),
    "clip_range": _ONLINE,
    "kl_coefficient": _ONLINE | {"dpo", "kto"},
    "num_generations": _GROUPS,
    "reward_model": _ONLINE,
    "reward_functions": _GROUPS,
}
"""Fields that mean nothing for other algorithms. Unset, they are TRL's defaults."""
_POSITIVE: Final = (
    "learning_rate", "batch_size", "gradient_accumulation_steps", "max_prompt_tokens", "max_completion_tokens", "max_steps",
    "save_steps", "logging_steps", "ppo_epochs", "mini_batches", "clip_range", "num_generations", "anomaly_threshold",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class TRLIntegrationConfig:
    """A training and what is watched of it. Raises ConfigurationError for what is impossible or without effect."""

    model_name: str = ""
    """Hub name or local path, where ``setup_trl_trainer`` is given none."""
    dataset_name: str = ""
    """Hub name, directory of ``save_to_disk``, or a file: .jsonl, .json, .csv or .parquet; likewise."""
    algorithm: str = "ppo"
    learning_rate: float = 1e-5
    batch_size: int = 4
    """Completions, pairs or texts on each device in a forward pass."""
    gradient_accumulation_steps: int = 1
    max_steps: int = 100
    max_prompt_tokens: int = 64
    max_completion_tokens: int = 64
    ppo_epochs: int | None = None
    mini_batches: int | None = None
    """PPO: mini-batches that a rollout is split into."""
    clip_range: float | None = None
    kl_coefficient: float | None = None
    """Weight of the KL penalty: ``kl_coef`` of PPO, ``beta`` of the others."""
    num_generations: int | None = None
    """Completions of one prompt."""
    reward_model: str | None = None
    """Hub name or local path. Without one, and without functions, an untrained head scores, which is said."""
    reward_functions: tuple[Callable[..., Any], ...] = ()
    """TRL reward functions."""
    precision: str = "fp32"
    """``fp32``, ``bf16`` or ``fp16`` (mixed, as transformers has it)."""
    device: str = "auto"
    """``auto`` or ``cpu``."""
    seed: int = 42
    output_dir: str = "trl_integration"
    log_dir: str | None = None
    """Of journal and reports; by default ``rlhf_otel`` in ``output_dir``."""
    save_steps: int = 50
    logging_steps: int = 1
    anomaly_threshold: float | None = None
    """Deviations from the usual at which spikes count, for all such rules; None for each rule's own."""
    enable_profiling: bool = False
    """Whether every step is kept as a trace, rather than one in a hundred."""
    enable_checkpoint_analysis: bool = True
    enable_reward_monitoring: bool = True

    def __post_init__(self) -> None:
        """Refuse what is impossible, and what would have no effect."""
        _one_of("algorithm", self.algorithm, ALGORITHMS)
        _one_of("precision", self.precision, ("fp32", "bf16", "fp16"))
        _one_of("device", self.device, ("auto", "cpu"))
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigurationError(f"{name} is {value!r}: give a number above 0")
        for name, algorithms in _ONLY_FOR.items():
            if getattr(self, name) not in (None, ()) and self.algorithm not in algorithms:
                raise ConfigurationError(
                    f"{name} has no effect with {self.algorithm}; it is for {', '.join(sorted(algorithms))}"
                )

    @property
    def logs(self) -> Path:
        """Where journal and reports are."""
        return Path(self.log_dir) if self.log_dir else Path(self.output_dir) / "rlhf_otel"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigurationError(f"{name} is {value!r}; known are {', '.join(known)}")
