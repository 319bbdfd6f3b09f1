"""The tiny trainers of ``injected_runs.py``: GRPO in many settings, RLOO, DPO and SFT on the toy language."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any, Final

import psutil
from rare_faults import REWARDS
from transformers import TrainerCallback

SHARED_WITH_RLOO: Final = (
    "output_dir", "max_steps", "seed", "per_device_train_batch_size", "per_device_eval_batch_size",
    "num_generations", "num_generations_eval", "max_completion_length", "learning_rate", "lr_scheduler_type",
    "beta", "min_p", "logging_steps", "eval_strategy", "eval_steps", "save_steps", "save_total_limit",
    "use_cpu", "bf16", "gradient_checkpointing", "dataloader_pin_memory", "disable_tqdm",
)  # fmt: skip
SHARED_WITH_ALL: Final = (
    "output_dir", "max_steps", "seed", "logging_steps", "eval_strategy", "eval_steps", "save_steps",
    "save_total_limit", "use_cpu", "bf16", "gradient_checkpointing", "dataloader_pin_memory", "disable_tqdm",
    "lr_scheduler_type",
)  # fmt: skip
PAIRS: Final = 2000


class Samples(TrainerCallback):
    """Keeps what a step sampled, and the memory of the process: signals that are invented later can be had of
    runs that were made before."""

    def __init__(self, directory: Path) -> None:
        self.trainer: Any = None
        self._file = (directory / "samples.jsonl").open("w", encoding="utf-8")
        self._process = psutil.Process()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write a line."""
        memory = self._process.memory_info()
        row: dict[str, Any] = {
            "step": state.global_step,
            "resident": memory.rss,
            "shared": getattr(memory, "shared", 0),
        }
        logs = getattr(self.trainer, "_logs", None)
        if isinstance(logs, dict):
            row["completions"] = list(logs.get("completion", ()))
            row["rewards"] = {name: list(column) for name, column in logs.get("rewards", {}).items()}
            row["group"] = getattr(self.trainer, "num_generations", 0)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def build(
    changes: dict[str, Any], settings: Any, functions: list[Any], callbacks: list[Any], cache: Path
) -> Any:
    """The trainer of one variant. Pretrained policies are kept in ``cache``."""
    from rlhf_otel.demo import model, train

    changes = dict(changes)
    hidden = changes.pop("hidden_size", None)
    if hidden:
        _widen(model, hidden)
    train._base_model = _cached(train._base_model, cache / f"base-{settings.seed}-{hidden or 64}")
    reward = changes.pop("reward", "")
    if reward == "binary":
        functions = [_binary(functions[0]), *functions[1:]]
    elif reward:
        functions = REWARDS[reward](functions)
    kind = changes.pop("trainer", "grpo")
    configuration = train._configuration

    def changed(given: Any) -> Any:
        return dataclasses.replace(
            configuration(given), generation_batch_size=None, steps_per_generation=None, **changes
        )

    train._configuration = changed
    if kind == "rloo":
        return _rloo(train, settings, functions, callbacks)
    if kind in ("dpo", "sft"):
        return _supervised(kind, train, settings, callbacks)
    return train.plain_trainer(settings, functions, callbacks)


def _cached(base_model: Any, kept: Path) -> Any:
    def cached(settings: Any) -> str:
        if not kept.exists():
            draft = kept.with_suffix(".draft")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(base_model(settings), draft)
            draft.rename(kept)
        return str(kept)

    return cached


def _binary(function: Any) -> Any:
    """Right or wrong, nothing between: many groups without advantage."""

    def correctness(completions: list[str], **columns: Any) -> list[float]:
        return [float(score > 0.99) for score in function(completions=completions, **columns)]

    return correctness


def _widen(model: Any, hidden: int) -> None:
    make = model.build

    def wide(tokenizer: Any) -> Any:
        narrow = make(tokenizer)
        narrow.config.hidden_size, narrow.config.intermediate_size = hidden, 2 * hidden
        narrow.config.head_dim = hidden // narrow.config.num_attention_heads
        return type(narrow)(narrow.config)

    model.build = wide


def _rloo(train: Any, settings: Any, functions: list[Any], callbacks: list[Any]) -> Any:
    from trl import RLOOConfig, RLOOTrainer

    from rlhf_otel.demo import language, rewards

    given = train._configuration(settings)
    shared = {f.name for f in dataclasses.fields(RLOOConfig) if f.init}
    own = {name: getattr(given, name) for name in SHARED_WITH_RLOO if name in shared}
    return RLOOTrainer(
        model=train._base_model(settings),
        reward_funcs=functions,
        args=RLOOConfig(**own, report_to="none", reward_weights=list(rewards.REWARD_WEIGHTS)),
        train_dataset=language.dataset(train.PROMPTS, seed=settings.seed),
        eval_dataset=language.dataset(train.EVALUATION_PROMPTS, seed=settings.seed + 1),
        processing_class=language.tokenizer(),
        callbacks=callbacks,
    )


def _supervised(kind: str, train: Any, settings: Any, callbacks: list[Any]) -> Any:
    """DPO on right against careless answers, or SFT on the right ones."""
    import trl
    from datasets import Dataset

    from rlhf_otel.demo import language

    rng = random.Random(settings.seed)
    asked = language.questions(PAIRS, rng)
    columns = {
        "prompt": [language.prompt(numbers) + " " for numbers in asked],
        "chosen": [language.answer(numbers) for numbers in asked],
        "rejected": [language.demonstration(numbers[::-1], rng) for numbers in asked],
    }
    if kind == "sft":
        columns = {"prompt": columns["prompt"], "completion": columns["chosen"]}
    data = Dataset.from_dict(columns)
    given = train._configuration(settings)
    own = {name: getattr(given, name) for name in SHARED_WITH_ALL}
    config, trainer = (trl.DPOConfig, trl.DPOTrainer) if kind == "dpo" else (trl.SFTConfig, trl.SFTTrainer)
    return trainer(
        model=train._base_model(settings),
        args=config(
            **own, report_to="none", learning_rate=given.learning_rate / 2, per_device_train_batch_size=16,
            per_device_eval_batch_size=16,
        ),
        train_dataset=data,
        eval_dataset=data.select(range(16)),
        processing_class=language.tokenizer(),
        callbacks=callbacks,
    )  # fmt: skip
