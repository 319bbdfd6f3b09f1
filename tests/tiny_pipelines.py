"""Trainers of TRL 1.16 that work beside a server or a GPU kernel, run on a CPU with that part replaced.

Replaced are: the server that samples (a worker in this process, whose completions are drawn at random), the
transfer of weights to it, the server that scores for a teacher (a tiny model in this process), and the FlashAttention
kernel (the same attention, dense). Loss, metrics and the loop are TRL's own.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import tiny_trainers as tiny
import torch
from tiny_experimental import Callbacks, asked
from tiny_trainers import base_model, build, length_reward, prompts
from transformers import LlamaForCausalLM

from rlhf_otel.demo import language

GROUP: Final = 2
COMPLETION: Final = 8


def tree_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *,
    tree_kv_index: Any, tree_cu_seqlens_q: Any, tree_cu_seqlens_k: Any, scaling: float | None = None, **_: Any,
) -> tuple[Any, None]:  # fmt: skip
    """What async GRPO's kernel computes: each segment attends causally to its path from the root."""
    repeat = query.shape[1] // key.shape[1]
    q, k, v = (
        x[0].float() for x in (query, key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1))
    )
    found = torch.zeros_like(q)
    starts = tree_cu_seqlens_q.tolist(), tree_cu_seqlens_k.tolist()
    spans = zip(
        zip(starts[0], starts[0][1:], strict=False), zip(starts[1], starts[1][1:], strict=False), strict=True
    )
    for (first, last), (low, high) in spans:
        path = tree_kv_index[low:high].long()
        scores = q[:, first:last] @ k[:, path].transpose(1, 2) * (scaling or q.shape[-1] ** -0.5)
        future = torch.ones(last - first, high - low).triu(high - low - last + first + 1).bool()
        found[:, first:last] = scores.masked_fill(future, -torch.inf).softmax(-1) @ v[:, path]
    return found.transpose(0, 1).unsqueeze(0).to(query.dtype), None


class Worker:
    """Stands for the process that samples: everything is there at once."""

    def __init__(self, samples: Iterator[Any]) -> None:
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[Any] = queue.Queue()
        for sample in samples:
            self.rollout_buffer.put(sample)
        measured = {"rollout/inflight": 3.0, "rollout/score_s": 0.1, "rollout/backpressure_s": 0.2}
        self.metrics_queue.put(
            {**measured, "rollout/vllm_retry_total": 1.0, "rollout/overlong_frac": (1.0, 4.0)}
        )

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def update_model_version(self, model_version: int) -> None: ...
    def check_health(self, stale_after_s: float) -> None:
        raise AssertionError("ran out of completions")


class NoTransfer:
    """Stands for the transfer of weights."""

    def init_weight_transfer(self) -> None: ...
    def pause(self) -> None: ...
    def send_weights(self, iterator: Any) -> None:
        for _ in iterator:
            pass

    def resume(self) -> None: ...
    def destroy(self) -> None: ...


def peak_flops(*_: Any) -> float:
    """TRL asks CUDA for the device's name, to tell how many FLOPs it could do."""
    return 1e12


def rollouts(count: int) -> Iterator[dict[str, Any]]:
    """Prompts with random completions."""
    generator = np.random.default_rng(0)
    tokenizer = language.tokenizer()
    for number in range(count):
        prompt = tokenizer(prompts()[(number // GROUP) % 32])["input_ids"]
        completion = generator.integers(4, len(tokenizer), COMPLETION).tolist()
        mask = [0] * len(prompt) + [1] * COMPLETION
        yield {
            "prompt": [{"role": "user", "content": "?"}],
            "completion": [{"role": "assistant", "content": tokenizer.decode(completion)}],
            "input_ids": np.array(prompt + completion),
            "completion_mask": np.array(mask),
            "model_version": 0,
            "enqueued_at": time.time(),
        }


def async_grpo(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Async GRPO with a worker of our own, no transfer of weights, and dense attention, unless other parts are given."""
    from transformers import AttentionInterface
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample
    from trl.experimental.async_grpo.packing import TREE_ATTENTION

    samples = (
        RolloutSample(
            **row,
            old_log_probs=np.where(row["completion_mask"], -3.0, 0.0),
            advantage=1.0 if number % GROUP else -1.0,
            group_id=number // GROUP,
            metrics={
                "reward": float(number % GROUP),
                "reward_std": 0.5,
                "rewards/length_reward": float(number % GROUP),
            },
        )
        for number, row in enumerate(rollouts(4 * more.get("max_steps", tiny.STEPS) + 16))
    )
    settings = {
        "max_completion_length": COMPLETION,
        "num_generations": GROUP,
        "token_budget": 0,
        "max_staleness": 1000,
        "dtype": "float32",
    }
    parts = {"train_dataset": asked(), "rollout_worker": Worker(samples), "weight_transfer": NoTransfer()}
    given = {name: more.pop(name) for name in (*parts, "processing_class") if name in more}
    with mock.patch("trl.experimental.async_grpo.async_grpo_trainer.get_peak_flops_per_device", peak_flops):
        trainer = build(
            folder, AsyncGRPOTrainer, AsyncGRPOConfig, callbacks,
            model=base_model(folder), reward_funcs=[length_reward],
            config_arguments={**settings, **more}, **{**parts, **given},
        )  # fmt: skip
    AttentionInterface.register(TREE_ATTENTION, tree_attention)
    return trainer


def async_distillation(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Async distillation with a worker of our own, no transfer of weights, and ordinary attention."""
    from trl.experimental.async_distillation import AsyncDistillationConfig, AsyncDistillationTrainer
    from trl.experimental.async_distillation.async_rollout_worker import RolloutSample

    width = 3
    samples = (
        RolloutSample(
            **row,
            teacher_topk_ids=np.stack([(row["input_ids"] + k) % 20 for k in range(width)], axis=1),
            teacher_topk_logprobs=np.log(np.full((len(row["input_ids"]), width), 0.2)),
            metrics={"teacher_entropy": 1.0},
            teacher_id="default",
            prompt_id=number,
        )
        for number, row in enumerate(rollouts(4 * more.get("max_steps", tiny.STEPS) + 16))
    )
    settings = {
        "max_completion_length": COMPLETION, "token_budget": 0, "max_staleness": 1000, "dtype": "float32",
        "teacher_top_k": width - 1, "model_init_kwargs": {"attn_implementation": "eager"},
    }  # fmt: skip
    module = "trl.experimental.async_distillation.async_distillation_trainer"
    with mock.patch(f"{module}.get_peak_flops_per_device", peak_flops):
        return build(
            folder, AsyncDistillationTrainer, AsyncDistillationConfig, callbacks,
            model=base_model(folder), train_dataset=asked(),
            config_arguments={**settings, **more}, rollout_worker=Worker(samples), weight_transfer=NoTransfer(),
        )  # fmt: skip


class Teacher:
    """Stands for the server that scores for a teacher: a tiny model in this process."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def get_sequence_logprobs(
        self, sequences: Any, prompt_lengths: Any, top_logprobs: int, temperature: float
    ) -> dict[str, list[Any]]:
        """What TRL's client returns."""
        found: dict[str, list[Any]] = {
            "logprobs": [], "logprob_token_ids": [], "actual_logprobs": [], "actual_token_ids": [],
        }  # fmt: skip
        for sequence, start in zip(sequences, prompt_lengths, strict=True):
            tokens = torch.tensor([sequence])
            with torch.no_grad():
                logprobs = (self._model(tokens).logits[0] / temperature).log_softmax(-1)[start - 1 : -1]
            best = logprobs.topk(top_logprobs)
            actual = tokens[0, start:].unsqueeze(-1)
            found["logprobs"].append(best.values.tolist())
            found["logprob_token_ids"].append(best.indices.tolist())
            found["actual_logprobs"].append(logprobs.gather(-1, actual).tolist())
            found["actual_token_ids"].append(actual.tolist())
        return found


def distillation(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Distillation from a local teacher."""
    import trl

    settings = {"max_completion_length": COMPLETION, **more}
    return build(
        folder, trl.DistillationTrainer, trl.DistillationConfig, callbacks,
        model=base_model(folder), teacher_model=base_model(folder), train_dataset=asked(), config_arguments=settings,
    )  # fmt: skip


def server_distillation(folder: Path, callbacks: Callbacks, **more: Any) -> Any:
    """Distillation from a server, which is a model in this process."""
    from trl.experimental.server_distillation import ServerDistillationConfig, ServerDistillationTrainer

    teacher = Teacher(tiny.load(folder, LlamaForCausalLM))
    with mock.patch("trl.generation.vllm_client.VLLMClient", return_value=teacher):
        return build(
            folder, ServerDistillationTrainer, ServerDistillationConfig, callbacks,
            model=base_model(folder), train_dataset=asked(),
            config_arguments={
                "max_completion_length": COMPLETION, "teacher_model_server_url": "http://localhost:1", **more,
            },
        )  # fmt: skip


PIPELINES: Final[dict[str, tiny.Builder]] = {
    "asyncgrpo": async_grpo,
    "asyncdistillation": async_distillation,
    "distillation": distillation,
    "serverdistillation": server_distillation,
}
