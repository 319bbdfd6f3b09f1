"""Trainers, and what stands for the parts that this machine has not, for ``further_runs.py``."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import tiny_trainers as tiny
import torch
from datasets import Dataset
from tiny_trainers import base_model, build, length_reward

from rlhf_otel.demo import language

sft, dpo, grpo = tiny.MAIN["sft"], tiny.MAIN["dpo"], tiny.MAIN["grpo"]
COMPLETION: Final = 8
TEMPLATE: Final = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] or '' }} {% if m['tool_calls'] %}"
    "{% for c in m['tool_calls'] %}{{ c['function']['name'] }} {{ c['function']['arguments'] }} {% endfor %}"
    "{% endif %}{% endfor %}"
)
"""Of a chat, with calls of tools and their answers."""
broken: list[bool] = []
"""Not empty once the tool, or the service that scores, no longer works."""


def grpo_with_service(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """GRPO whose reward function asks a service, which may be :data:`broken`."""
    from trl import GRPOConfig, GRPOTrainer

    def served_reward(completions: list[str], **_: Any) -> list[float]:
        if broken:
            raise ConnectionError("the reward service does not answer")
        return [len(text) / 100 for text in completions]

    settings = {"num_generations": 2, "max_completion_length": COMPLETION, "beta": 0.05, **more}
    return build(
        folder, GRPOTrainer, GRPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[served_reward], config_arguments=settings,
        train_dataset=Dataset.from_dict({"prompt": tiny.prompts()}),
    )  # fmt: skip


def ppo(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """PPO of TRL 1.12."""
    import tiny_older

    return tiny_older.ppo(folder, callbacks, **more)


def ppo_without_end(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """PPO whose policy can't say the end-of-sequence token."""
    trainer = ppo(folder, callbacks, **more)
    forbid_end_of_sequence(trainer.model.policy)
    return trainer


def online_dpo(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """Online DPO with a reward function."""
    import tiny_experimental

    return tiny_experimental.online_dpo(folder, callbacks, **more)


def online_dpo_without_end(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """Online DPO whose policy can't either."""
    trainer = online_dpo(folder, callbacks, **more)
    forbid_end_of_sequence(trainer.model)
    return trainer


def forbid_end_of_sequence(model: Any) -> None:
    """Take 50 off the token's logit."""
    token = language.tokenizer().eos_token_id

    def lower(module: Any, inputs: Any, logits: Any) -> Any:
        penalty = torch.zeros_like(logits)
        penalty[..., token] = -50.0
        return logits + penalty

    model.lm_head.register_forward_hook(lower)


def sample_at_random() -> None:
    """Rollouts are drawn at a temperature that scores know nothing of, as with a sampler of other settings."""
    from trl.experimental.ppo import ppo_trainer

    generate = ppo_trainer.batch_generation

    def hot(model: Any, queries: Any, batch: int, pad: int, config: Any) -> Any:
        config.temperature = 1000.0
        found, logits = generate(model, queries, batch, pad, config)
        return found, logits * 1000.0  # the logits of the policy itself

    ppo_trainer.batch_generation = hot


def separable_dpo(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """DPO on pairs that one word tells apart."""
    from trl import DPOConfig, DPOTrainer

    words = [word for word in language.tokenizer().get_vocab() if word.isalpha()][:2]
    rows = {
        "prompt": tiny.prompts(),
        "chosen": [f"{words[0]} " * 4] * 32,
        "rejected": [f"{words[1]} " * 4] * 32,
    }
    return build(
        folder, DPOTrainer, DPOConfig, callbacks,
        model=base_model(folder), train_dataset=Dataset.from_dict(rows), config_arguments=more,
    )  # fmt: skip


# --- GRPO beside a sampler


class Sampler:
    """Stands for vLLM: another copy of the weights, which draws by itself and is only told new weights."""

    def __init__(self, model: Any, processing_class: Any, **settings: Any) -> None:
        import copy

        self._trained, self._own = model, copy.deepcopy(model)
        self._tokenizer = processing_class
        self._most = settings["max_completion_length"]
        self.sync_s = 0.0
        self.off_by = 0.0
        self.gone = False

    def sync_weights(self) -> None:
        if self.gone:
            raise ConnectionError("the sampler does not answer")
        time.sleep(0.02 + self.sync_s)
        self._own.load_state_dict(self._trained.state_dict())

    @torch.no_grad()
    def generate(self, prompts: Any, images: Any, num_generations: int, profiler: Any) -> tuple[Any, ...]:
        found = [self._complete(prompt) for prompt in prompts]
        return (
            prompts,
            [ids for ids, _ in found],
            [[[one] for one in logprobs] for _, logprobs in found],
            None,
        )

    def _complete(self, prompt: list[int]) -> tuple[list[int], list[float]]:
        ids, logprobs = list(prompt), []
        for _ in range(self._most):
            scores = self._own(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
            drawn = int(torch.multinomial(scores.exp(), 1))
            ids.append(drawn)
            logprobs.append(float(scores[drawn]) + self.off_by)
            if drawn == self._tokenizer.eos_token_id:
                break
        return ids[len(prompt) :], logprobs


def grpo_with_sampler(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """GRPO with ``use_vllm``, whose sampler is :class:`Sampler`."""
    from trl.trainer import grpo_trainer

    mock.patch.object(grpo_trainer, "VLLMGeneration", Sampler).start()
    return grpo(
        folder, callbacks, use_vllm=True, vllm_mode="colocate", vllm_importance_sampling_cap=1000.0, **more
    )


def grpo_with_tool(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """GRPO with a tool that every completion is taken to call: the tiny model can't write a call by itself."""
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer import grpo_trainer

    def look_up(word: str) -> str:
        """Look a word up.

        Args:
            word: What to look up.

        Returns:
            What it means.
        """
        if broken:
            raise ConnectionError("the dictionary does not answer")
        return word

    def calling(tokenizer: Any, ids: Any, **_: Any) -> dict[str, Any]:
        text = tokenizer.decode(ids)
        call = {"type": "function", "function": {"name": "look_up", "arguments": {"word": text[:8]}}}
        return {"role": "assistant", "content": text, "tool_calls": [call]}

    tokenizer = language.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_schema = {"type": "object"}
    mock.patch.object(grpo_trainer, "parse_response", calling).start()
    mock.patch.object(grpo_trainer, "is_chat_template_prefix_preserving", return_value=True).start()
    mock.patch.object(grpo_trainer, "add_response_schema", lambda one: one, create=True).start()
    asked = [[{"role": "user", "content": text}] for text in tiny.prompts()]
    settings = {
        "num_generations": 2,
        "max_completion_length": 24,
        "max_tool_calling_iterations": 1,
        "beta": 0.0,
        **more,
    }
    return build(
        folder, GRPOTrainer, GRPOConfig, callbacks,
        model=base_model(folder), reward_funcs=[length_reward], tools=[look_up], processing_class=tokenizer,
        config_arguments=settings, train_dataset=Dataset.from_dict({"prompt": asked}),
    )  # fmt: skip


# --- async GRPO with a worker whose state can change


class LiveQueue:
    """Hands out a sample when one is asked for; pauses and stamps it as the worker is told to."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._number = 0

    def get(self, timeout: float | None = None) -> Any:
        time.sleep(0.004 + self._worker.pause_s)
        self._number += 1
        return self._worker.sample(self._number - 1)

    def qsize(self) -> int:
        return 4


class LiveWorker:
    """Stands for the process that samples: random completions of a policy that is ``behind`` steps old."""

    def __init__(self, sample_class: Any) -> None:
        import queue

        self._class = sample_class
        self._version = 0
        self.behind, self.every, self.pause_s, self.off_by = 0, 1, 0.0, 0.0
        self.rollout_buffer = LiveQueue(self)
        self.metrics_queue: Any = queue.Queue()
        self._generator = np.random.default_rng(0)

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def check_health(self, stale_after_s: float) -> None: ...
    def update_model_version(self, model_version: int) -> None:
        self._version = model_version

    def sample(self, number: int) -> Any:
        tokenizer = language.tokenizer()
        group = number // 2
        prompt = tokenizer(tiny.prompts()[group % 32])["input_ids"]
        completion = self._generator.integers(4, len(tokenizer), COMPLETION).tolist()
        mask = np.array([0] * len(prompt) + [1] * COMPLETION)
        late = self.behind if group % self.every == 0 else 0
        reward = float(number % 2)
        return self._class(
            prompt=[{"role": "user", "content": "?"}],
            completion=[{"role": "assistant", "content": tokenizer.decode(completion)}],
            input_ids=np.array(prompt + completion),
            completion_mask=mask,
            model_version=max(0, self._version - late),
            enqueued_at=time.time(),
            old_log_probs=np.where(mask, -3.0 + self.off_by, 0.0),
            advantage=reward * 2 - 1,
            group_id=group,
            metrics={"reward": reward, "reward_std": 0.5, "rewards/length_reward": reward},
        )


def live_async_grpo(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """Async GRPO with :class:`LiveWorker`."""
    import tiny_pipelines
    from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

    worker = LiveWorker(RolloutSample)
    with mock.patch.object(tiny_pipelines, "Worker", return_value=worker):
        trainer = tiny_pipelines.async_grpo(folder, callbacks, **{"max_staleness": 1000, **more})
    trainer.rollout_worker = worker
    return trainer


# --- async GRPO with TRL's own worker beside a server


def served_async_grpo(folder: Path, callbacks: Sequence[Any], **more: Any) -> Any:
    """Async GRPO whose rollout worker is TRL's, a process of its own, beside a :class:`SamplingServer`."""
    import tiny_pipelines
    from sampling_server import SamplingServer
    from transformers import LlamaForCausalLM
    from trl.experimental.async_grpo import async_rollout_worker

    tokenizer = language.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = {
        "defaults": {"role": "assistant"}, "start_anchor": "user ", "fields": {"content": {"content": "text"}},
    }  # fmt: skip
    server = SamplingServer(tiny.load(folder, LlamaForCausalLM), tokenizer.eos_token_id, COMPLETION)
    mock.patch.object(async_rollout_worker, "is_vllm_available", return_value=True).start()
    trainer = tiny_pipelines.async_grpo(
        folder, callbacks, rollout_worker=None, weight_transfer=server, processing_class=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": [[{"role": "user", "content": t}] for t in tiny.prompts()]}),
        **{"max_staleness": 1000, "vllm_server_base_url": server.url, **more},
    )  # fmt: skip
    trainer.server = server
    return trainer


def slow_down(trainer: Any, seconds: float, every: int = 1) -> None:
    """Each so many steps take so much longer from now on."""
    training_step = trainer.training_step

    def slow(*args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step % every == 0:
            time.sleep(seconds)
        return training_step(*args, **kwargs)

    trainer.training_step = slow


# --- where a run's files go


def save_the_same(trainer: Any) -> None:
    """From now on each checkpoint holds the weights of this moment, as where a copy of the model is saved."""
    kept = {name: weights.clone() for name, weights in trainer.model.state_dict().items()}
    save = trainer.model.save_pretrained

    def same(directory: Any, state_dict: Any = None, **more: Any) -> None:
        save(directory, state_dict=kept, **more)

    trainer.model.save_pretrained = same


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which a few checkpoints of the tiny model fill. It takes root to mount one."""
    if os.geteuid() != 0:
        raise PermissionError("only root can mount a small file system")
    where = folder / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@contextlib.contextmanager
def container_of_limited_memory(folder: Path) -> Iterator[Path]:
    """This process in a cgroup (version 1) of its own, whose limit is 1 GiB above what it holds. It takes root to make
    one, and this is what a container's limit is."""
    if os.geteuid() != 0:
        raise PermissionError("only root can make a cgroup")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    outer = next(line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory")
    group = Path("/sys/fs/cgroup/memory", outer.lstrip("/"), f"rlhf-otel-{os.getpid()}")
    group.mkdir()
    held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    (group / "memory.limit_in_bytes").write_text(str(held + 2**30))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield folder
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):  # a child of the run may still be in it
            group.rmdir()
