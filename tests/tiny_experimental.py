"""Real trainers of ``trl.experimental``, as small as those of ``tiny_trainers``.

Import them where they are built: TRL's experimental modules come and go between versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import tiny_trainers as tiny
import tokenizers
from datasets import Dataset
from tiny_trainers import base_model, build, length_reward, pairs, prompts
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from rlhf_otel.demo import language

CHAT_TEMPLATE: Final = (
    "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)

Callbacks = Sequence[TrainerCallback]


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """The toy language's tokenizer, with a chat template."""
    tokenizer = language.tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def conversations() -> Dataset:
    """Prompts and answers as messages."""
    data = pairs()
    rows = zip(data["prompt"], data["chosen"], strict=True)
    said = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        for asked, answer in rows
    ]
    return Dataset.from_dict({"messages": said})


def asked(**more: Any) -> Dataset:
    """Prompts, and further columns."""
    return Dataset.from_dict({"prompt": prompts(), **more})


def cpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """CPO on pairs."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    return build(
        folder, CPOTrainer, CPOConfig, callbacks,
        model=tiny.load(folder), train_dataset=pairs(), config_arguments={"max_length": 32, **more},
    )  # fmt: skip


def orpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """ORPO on pairs."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return build(
        folder, ORPOTrainer, ORPOConfig, callbacks,
        model=tiny.load(folder), train_dataset=pairs(), config_arguments={"max_length": 32, **more},
    )  # fmt: skip


def tpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """TPO: pairs with a reference answer."""
    from trl.experimental.tpo import TPOConfig, TPOTrainer

    data = pairs()
    return build(
        folder, TPOTrainer, TPOConfig, callbacks,
        model=base_model(folder), train_dataset=data.add_column("reference", data["chosen"]), config_arguments=more,
    )  # fmt: skip


def online_dpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Online DPO with a reward function."""
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    return build(
        folder, OnlineDPOTrainer, OnlineDPOConfig, callbacks,
        model=tiny.load(folder), ref_model=tiny.load(folder), reward_funcs=length_reward, train_dataset=asked(),
        config_arguments={"max_new_tokens": 8, **more},
    )  # fmt: skip


def gmpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """GMPO, which is GRPO with another loss."""
    from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

    settings = {"num_generations": 2, "max_completion_length": 8, "beta": 0.05, **more}
    return build(
        folder, GMPOTrainer, GMPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], config_arguments=settings, train_dataset=asked(),
    )  # fmt: skip


def a2po(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """A*-PO with a binary reward."""
    from trl.experimental.a2po import A2POConfig, A2POTrainer

    def many_words(completions: Sequence[Any], **_: Any) -> list[float]:
        return [float(reward > 4) for reward in length_reward(completions)]

    settings = {"max_completion_length": 8, "num_value_samples": 2, "filter_all_incorrect": False, **more}
    return build(
        folder, A2POTrainer, A2POConfig, callbacks,
        model=base_model(folder), reward_funcs=many_words, config_arguments=settings, train_dataset=asked(),
    )  # fmt: skip


def gkd(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """GKD: half on the student's own completions."""
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    return build(
        folder, GKDTrainer, GKDConfig, callbacks,
        model=tiny.load(folder), teacher_model=tiny.load(folder), train_dataset=conversations(),
        processing_class=chat_tokenizer(), config_arguments={"max_new_tokens": 8, "max_length": 64, **more},
    )  # fmt: skip


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer, the only kind that GOLD aligns between vocabularies."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = [language.PAD, language.BOS, language.EOS]
    trainer = tokenizers.trainers.BpeTrainer(
        special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=language.PAD, bos_token=language.BOS, eos_token=language.EOS
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def gold(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """GOLD across vocabularies: the hybrid loss, half on the student's own completions."""
    from trl.experimental.gold import GOLDConfig, GOLDTrainer

    tokenizer = byte_tokenizer()
    teacher = LlamaForCausalLM(tiny.configuration(tokenizer))
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    settings = {
        "max_completion_length": 8, "max_length": 96, "use_uld_loss": True, "uld_use_hybrid_loss": True,
        "teacher_tokenizer_name_or_path": str(folder / "teacher"), **more,
    }  # fmt: skip
    return build(
        folder, GOLDTrainer, GOLDConfig, callbacks,
        model=LlamaForCausalLM(tiny.configuration(tokenizer)), teacher_model=teacher,
        train_dataset=conversations(), processing_class=tokenizer, config_arguments=settings,
    )  # fmt: skip


def iw_opd(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """IW-OPD from a local teacher."""
    from trl.experimental.iw_opd import IWOPDConfig, IWOPDTrainer

    settings = {"max_completion_length": 8, "max_length": 64, **more}
    return build(
        folder, IWOPDTrainer, IWOPDConfig, callbacks,
        model=tiny.load(folder), teacher_model=tiny.load(folder), train_dataset=conversations(),
        processing_class=chat_tokenizer(), config_arguments=settings,
    )  # fmt: skip


def sdft(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Self-distillation from a prompt with privileged context."""
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    return build(
        folder, SDFTTrainer, SDFTConfig, callbacks,
        model=base_model(folder), train_dataset=asked(privileged_context=prompts()),
        config_arguments={"max_completion_length": 8, "num_generations": 2, "distillation_topk": 5, **more},
    )  # fmt: skip


def sdpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Self-distillation from successful completions."""
    from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

    settings = {"max_completion_length": 8, "num_generations": 2, **more}
    return build(
        folder, SDPOTrainer, SDPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward],
        train_dataset=asked(privileged_context=prompts()), config_arguments=settings,
    )  # fmt: skip


EXPERIMENTAL: Final[dict[str, tiny.Builder]] = {
    "onlinedpo": online_dpo,
    "cpo": cpo,
    "orpo": orpo,
    "tpo": tpo,
    "gmpo": gmpo,
    "a2po": a2po,
    "gkd": gkd,
    "gold": gold,
    "iwopd": iw_opd,
    "sdft": sdft,
    "sdpo": sdpo,
}
