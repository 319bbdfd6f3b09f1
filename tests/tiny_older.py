"""Real trainers that TRL 1.16 has no more, run with TRL 1.12 and 0.29 in environments of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import tiny_trainers as tiny
from datasets import Dataset
from tiny_experimental import Callbacks, asked
from tiny_trainers import STEPS, base_model, build, length_reward, pairs, prompts
from transformers import (
    DataCollatorWithPadding,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    PrinterCallback,
)

from rlhf_otel.demo import language

RESPONSE: Final = 8


def ppo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """PPO: two mini-batches of two micro-batches, twice over. It knows no ``max_steps`` but episodes."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = language.tokenizer()
    tokenizer.padding_side = "left"
    rows = tokenizer(prompts(64))["input_ids"]
    settings = {
        "gradient_accumulation_steps": 4, "num_mini_batches": 2, "num_ppo_epochs": 2, "response_length": RESPONSE,
        "local_rollout_forward_batch_size": 8, "num_sample_generations": 0, "stop_token": "eos",
        "missing_eos_penalty": 1.0, "per_device_train_batch_size": 4, "kl_coef": 0.05, **more,
    }  # fmt: skip
    steps = settings.pop("max_steps", STEPS)
    episodes = steps * settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    arguments = {**tiny.arguments(folder), **settings, "total_episodes": episodes}
    scorer = LlamaForSequenceClassification
    trainer = PPOTrainer(
        args=PPOConfig(**arguments),
        processing_class=tokenizer,
        model=tiny.load(folder),
        ref_model=tiny.load(folder),
        reward_model=tiny.load(folder, scorer, num_labels=1),
        value_model=tiny.load(folder, scorer, num_labels=1),
        train_dataset=Dataset.from_dict({"input_ids": rows}),
        eval_dataset=Dataset.from_dict({"input_ids": rows[:8]}),
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def bco(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """BCO on pairs that are taken apart."""
    from trl.experimental.bco import BCOConfig, BCOTrainer

    data = pairs().to_dict()
    unpaired = {
        "prompt": data["prompt"] * 2,
        "completion": data["chosen"] + data["rejected"],
        "label": [True] * len(data["chosen"]) + [False] * len(data["rejected"]),
    }
    return build(
        folder, BCOTrainer, BCOConfig, callbacks,
        model=tiny.load(folder), ref_model=tiny.load(folder),
        train_dataset=Dataset.from_dict(unpaired).shuffle(seed=0),
        config_arguments={"max_length": 32, **more},
    )  # fmt: skip


def xpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """XPO with a reward model."""
    from trl.experimental.xpo import XPOConfig, XPOTrainer

    return build(
        folder, XPOTrainer, XPOConfig, callbacks,
        model=tiny.load(folder), ref_model=tiny.load(folder),
        reward_funcs=tiny.load(folder, LlamaForSequenceClassification, num_labels=1),
        train_dataset=asked(), config_arguments={"max_new_tokens": RESPONSE, **more},
    )  # fmt: skip


def nash_md(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Nash-MD with a reward model."""
    from trl.experimental.nash_md import NashMDConfig, NashMDTrainer

    return build(
        folder, NashMDTrainer, NashMDConfig, callbacks,
        model=tiny.load(folder), ref_model=tiny.load(folder),
        reward_funcs=tiny.load(folder, LlamaForSequenceClassification, num_labels=1),
        train_dataset=asked(), config_arguments={"max_new_tokens": RESPONSE, **more},
    )  # fmt: skip


def prm(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """A process reward model on labelled steps."""
    from trl.experimental.prm import PRMConfig, PRMTrainer

    data = pairs()
    steps = {
        "prompt": data["prompt"],
        "completions": [
            [chosen, rejected] for chosen, rejected in zip(data["chosen"], data["rejected"], strict=True)
        ],
        "labels": [[True, False]] * len(data),
    }
    rows = Dataset.from_dict(steps)
    settings = {"max_length": 32, "eval_strategy": "steps", "eval_steps": 2, **more}
    return build(
        folder, PRMTrainer, PRMConfig, callbacks,
        model=tiny.load(folder, LlamaForTokenClassification, num_labels=2),
        train_dataset=rows, eval_dataset=rows.select(range(8)), config_arguments=settings,
    )  # fmt: skip


def minillm(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """MiniLLM from a teacher of the same vocabulary."""
    from trl.experimental.minillm import MiniLLMConfig, MiniLLMTrainer

    return build(
        folder, MiniLLMTrainer, MiniLLMConfig, callbacks,
        model=base_model(folder), teacher_model=tiny.load(folder), train_dataset=asked(),
        config_arguments={"max_completion_length": RESPONSE, "num_generations": 2, **more},
    )  # fmt: skip


def ssd(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Simple self-distillation: fine-tuning on its own completions."""
    from trl.experimental.ssd import SSDConfig, SSDTrainer

    return build(
        folder, SSDTrainer, SSDConfig, callbacks,
        model=base_model(folder), train_dataset=asked(),
        config_arguments={"max_completion_length": RESPONSE, **more},
    )  # fmt: skip


def replay_buffer(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """GRPO with a buffer of earlier groups."""
    from trl.experimental.grpo_with_replay_buffer import (
        GRPOWithReplayBufferConfig,
        GRPOWithReplayBufferTrainer,
    )

    settings = {"num_generations": 2, "max_completion_length": RESPONSE, "replay_buffer_size": 4, **more}
    return build(
        folder, GRPOWithReplayBufferTrainer, GRPOWithReplayBufferConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], train_dataset=asked(), config_arguments=settings,
    )  # fmt: skip


def gfpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """GFPO, which keeps two completions of each group of four."""
    from trl.experimental.gfpo import GFPOConfig, GFPOTrainer

    class Unpacking(GFPOTrainer):  # type: ignore[misc]  # of a TRL that this environment lacks
        """GRPO's ``_generate`` of TRL 0.29 returns two results more than its GFPO unpacks."""

        def _generate(self, prompts: list[Any]) -> tuple[Any, ...]:
            asked, completed, _tools, _texts, *rest = super()._generate(prompts)
            return asked, completed, *rest

    def best(group_completions: Any, group_rewards: list[list[float]]) -> list[list[float]]:
        return group_rewards

    settings = {
        "num_generations": 4, "num_remains_in_group": 2, "max_completion_length": RESPONSE, "beta": 0.05, **more,
    }  # fmt: skip
    return build(
        folder, Unpacking, GFPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], group_filter_func=best, train_dataset=asked(),
        config_arguments=settings,
    )  # fmt: skip


def papo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """PAPO, with a model that sees pictures of four patches."""
    import tiny_vision
    from trl.experimental.papo import PAPOConfig, PAPOTrainer

    processor = tiny_vision.processor()
    never = {"suppress_tokens": [tiny_vision.image_token(processor.tokenizer)]}
    settings = {
        "num_generations": 2, "max_completion_length": RESPONSE, "generation_kwargs": never,
        "remove_unused_columns": False, **more,
    }  # fmt: skip
    return build(
        folder, PAPOTrainer, PAPOConfig, callbacks,
        model=tiny_vision.model(processor), reward_funcs=[length_reward], processing_class=processor,
        train_dataset=tiny_vision.pictures(), config_arguments=settings,
    )  # fmt: skip


def gspo_token(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """The GRPOTrainer of GSPO-token, whose importance weights are per sequence and token."""
    from trl import GRPOConfig
    from trl.experimental.gspo_token import GRPOTrainer

    settings = {
        "num_generations": 2, "max_completion_length": RESPONSE, "importance_sampling_level": "sequence_token", **more,
    }  # fmt: skip
    return build(
        folder, GRPOTrainer, GRPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], train_dataset=asked(), config_arguments=settings,
    )  # fmt: skip


def bema_dpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """The DPOTrainer whose reference follows the policy, with a handler of callbacks of its own."""
    from trl import DPOConfig
    from trl.experimental.bema_for_ref_model import BEMACallback, DPOTrainer

    return build(
        folder, DPOTrainer, DPOConfig, [*callbacks, BEMACallback(update_ref_model=True)],
        model=base_model(folder), train_dataset=pairs(), config_arguments=more,
    )  # fmt: skip


OLDER: Final[dict[str, tiny.Builder]] = {
    "ppo": ppo,
    "bco": bco,
    "xpo": xpo,
    "nashmd": nash_md,
    "prm": prm,
    "minillm": minillm,
    "ssd": ssd,
    "grpowithreplaybuffer": replay_buffer,
    "gfpo": gfpo,
    "papo": papo,
    "grpo-gspo-token": gspo_token,
    "dpo-bema": bema_dpo,
}
"""By algorithm; what follows a dash tells trainers of one algorithm apart."""
