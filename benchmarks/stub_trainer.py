"""A trainer that looks to a callback like TRL 1.16's GRPOTrainer, and does nothing.

The same events in the same order through transformers' own ``CallbackHandler``, the same methods under the
same profiling contexts, the same 30 metrics appended and averaged for the log, the same buffers of rewards. A
step has the 12 phases of a GRPO step with a reference model and three reward functions. Only the arithmetic is
left out.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import Any, Final, NamedTuple

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback
from trl.extras.profiling import profiling_context, profiling_decorator

COMPLETIONS: Final = 32
GROUP_SIZE: Final = 8
REWARD_FUNCTIONS: Final = ("accuracy_reward", "format_reward", "length_reward")
PHASES: Final = 12
"""Data, rollout, generate, reference_logprobs, reward, its 3 functions, loss, forward, backward, optimizer."""

USUAL_VALUES: Final[dict[str, float]] = {
    "completions/mean_length": 180.0,
    "completions/min_length": 60.0,
    "completions/max_length": 256.0,
    "completions/clipped_ratio": 0.05,
    "completions/mean_terminated_length": 170.0,
    "completions/min_terminated_length": 60.0,
    "completions/max_terminated_length": 240.0,
    **{f"rewards/{name}/mean": 0.5 for name in REWARD_FUNCTIONS},
    **{f"rewards/{name}/std": 0.3 for name in REWARD_FUNCTIONS},
    "reward": 1.5,
    "reward_std": 0.4,
    "frac_reward_zero_std": 0.1,
    "sampling/sampling_logp_difference/mean": 0.01,
    "sampling/sampling_logp_difference/max": 0.4,
    "sampling/importance_sampling_ratio/min": 0.8,
    "sampling/importance_sampling_ratio/mean": 1.0,
    "sampling/importance_sampling_ratio/max": 1.3,
    "kl": 0.02,
    "entropy": 1.1,
    "clip_ratio/low_mean": 0.01,
    "clip_ratio/low_min": 0.005,
    "clip_ratio/high_mean": 0.01,
    "clip_ratio/high_max": 0.03,
    "clip_ratio/region_mean": 0.02,
}
"""What a healthy run appends, each with a few percent of noise; with num_tokens and step_time 30 keys."""

KEYS: Final = len(USUAL_VALUES) + 2
VARIANTS: Final = 64
"""Different steps prepared beforehand, so that a step draws no random numbers."""


class Cost(NamedTuple):
    """What a step took on the training thread, in nanoseconds."""

    wall: int
    cpu: int


class StepClock:
    """Time on the training thread while running, by wall clock and by the thread's CPU clock."""

    __slots__ = ("_cpu", "_cpu_from", "_wall", "_wall_from")

    def __init__(self) -> None:
        self._wall = self._cpu = self._wall_from = self._cpu_from = 0

    def resume(self) -> None:
        """Let it run. Reading the wall clock is the last thing done here, and the first in :meth:`pause`."""
        self._cpu_from = thread_time_ns()
        self._wall_from = perf_counter_ns()

    def pause(self) -> None:
        """Stop it."""
        wall = perf_counter_ns()
        cpu = thread_time_ns()
        self._wall += wall - self._wall_from
        self._cpu += cpu - self._cpu_from

    def take(self) -> Cost:
        """What it has counted since the last call."""
        cost = Cost(self._wall, self._cpu)
        self._wall = self._cpu = 0
        return cost


class PreparedStep(NamedTuple):
    """The numbers of one step."""

    metrics: list[tuple[str, float]]
    rewards: list[list[float]]
    advantages: list[float]
    loss: torch.Tensor
    grad_norm: torch.Tensor


class StubAccelerator:
    """The parts of accelerate's ``Accelerator`` that are used in a step."""

    is_main_process = True

    def __init__(self) -> None:
        self._skipped = [False]

    def backward(self, loss: torch.Tensor) -> None:
        """Do nothing."""

    @property
    def optimizer_step_was_skipped(self) -> bool:
        """As accelerate's: any of the optimizers."""
        return any(self._skipped)


class StubOptimizer:
    """Parameter groups, and a step that does nothing."""

    def __init__(self) -> None:
        self.param_groups = [{"lr": 1e-6}]

    def step(self) -> None:
        """Do nothing."""


class StubTrainer(Trainer):
    """Runs steps with ``callbacks``; ``work`` is done with the clock stopped, before a step and within it."""

    def __init__(
        self,
        callbacks: list[TrainerCallback],
        directory: Path,
        steps: int,
        work: Callable[[], None] | None = None,
    ) -> None:
        self.args = TrainingArguments(
            output_dir=str(directory),
            run_name="overhead",
            report_to=[],
            logging_steps=1,
            use_cpu=True,
            save_strategy="no",
        )
        self.clock = StepClock()
        self.model = torch.nn.Linear(1, 1)
        self.ref_model = torch.nn.Linear(1, 1)
        self.accelerator = StubAccelerator()
        self.optimizer: Any = StubOptimizer()
        self.state = TrainerState(max_steps=steps, logging_steps=1)
        self.control = TrainerControl()
        self.reward_func_names = list(REWARD_FUNCTIONS)
        self.reward_funcs = [self._reward_function(index) for index in range(len(REWARD_FUNCTIONS))]
        self.reward_weights = torch.ones(len(REWARD_FUNCTIONS))
        self.num_generations = GROUP_SIZE
        self._metrics: dict[str, dict[str, list[float]]] = {"train": defaultdict(list)}
        self._logs: dict[str, Any] = {
            "prompt": deque(maxlen=COMPLETIONS),
            "completion": deque(maxlen=COMPLETIONS),
            "rewards": defaultdict(lambda: deque(maxlen=COMPLETIONS)),
            "advantages": deque(maxlen=COMPLETIONS),
        }
        self._work = work
        self._prepared = _prepare_steps()
        self._now = self._prepared[0]
        self._spoiled = False
        self._texts = ["a prompt, or its completion"] * COMPLETIONS
        self._tokens = 0
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback(), *callbacks], self.model, None, self.optimizer, None
        )  # type: ignore[no-untyped-call]
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)

    # --- the run

    def begin(self) -> None:
        """As ``Trainer.train`` does before its first step."""
        with redirect_stdout(StringIO()):  # peers greet
            self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)

    def spoil(self) -> None:
        """Give the next step a loss that is no number."""
        self._spoiled = True

    def step(self) -> Cost:
        """One step as in ``Trainer._run_epoch``; returns what it took without the work."""
        self._now = self._prepared[self.state.global_step % VARIANTS]
        if self._spoiled:
            self._now, self._spoiled = self._now._replace(loss=torch.tensor(math.nan)), False
        if self._work is not None:
            self._work()
        self.clock.resume()
        self._step()
        self.clock.pause()
        return self.clock.take()

    def end(self) -> None:
        """As ``Trainer.train`` does after its last step."""
        with redirect_stdout(StringIO()):
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)

    def _step(self) -> None:
        handler, args, state = self.callback_handler, self.args, self.state
        batches, items = self.get_batch_samples(iter(((),)), 1, None)
        self.control = handler.on_step_begin(args, state, self.control)
        self.training_step(self.model, batches[0], items)
        grad_norm = self._get_grad_norm(self.model)
        self.control = handler.on_pre_optimizer_step(args, state, self.control)
        self.optimizer.step()
        self.control = handler.on_optimizer_step(args, state, self.control)
        state.global_step += 1
        state.epoch = state.global_step / state.max_steps
        self.control = handler.on_step_end(args, state, self.control)
        if self.control.should_log:
            self.log({"loss": self._now.loss.item(), "grad_norm": grad_norm.item(), "learning_rate": 1e-6})

    # --- the methods that TRL and transformers have, under their names

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], None]:
        return [next(epoch_iterator) for _ in range(num_batches)], None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        started = perf_counter_ns()
        inputs = self._prepare_inputs(inputs)
        loss: torch.Tensor = self.compute_loss(model, inputs)
        self._pause_for_work()
        self.accelerator.backward(loss)
        self._metrics["train"]["step_time"].append((perf_counter_ns() - started) / 1e9)
        return loss

    @profiling_decorator
    def _prepare_inputs(self, inputs: Any) -> Any:
        with profiling_context(self, "transformers.generate"):
            self._pause_for_work()
        self._get_per_token_logps_and_entropies(self.ref_model)
        rewards = self._calculate_rewards()
        metrics, logs = self._metrics["train"], self._logs
        self._tokens += 5760
        metrics["num_tokens"] = [self._tokens]
        for key, value in self._now.metrics:
            metrics[key].append(value)
        logs["prompt"].extend(self._texts)
        logs["completion"].extend(self._texts)
        for name, column in zip(self.reward_func_names, rewards, strict=True):
            logs["rewards"][name].extend(column)
        logs["advantages"].extend(self._now.advantages)
        return inputs

    @profiling_decorator
    def _calculate_rewards(self) -> list[list[float]]:
        rewards = []
        for function, name in zip(self.reward_funcs, self.reward_func_names, strict=True):
            with profiling_context(self, name):
                rewards.append(function(prompts=self._texts, completions=self._texts))
        return rewards

    @profiling_decorator
    def _get_per_token_logps_and_entropies(self, model: Any) -> None:
        pass

    @profiling_decorator
    def compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        self._get_per_token_logps_and_entropies(model)
        self._pause_for_work()
        return self._now.loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> torch.Tensor:
        return self._now.grad_norm

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        for key, values in self._metrics["train"].items():
            valid = [value for value in values if not math.isnan(value)]
            logs[key] = sum(valid) / len(valid) if valid else None
        logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        self._metrics["train"].clear()

    # --- parts

    def _pause_for_work(self) -> None:
        if self._work is not None:
            self.clock.pause()
            self._work()
            self.clock.resume()

    def _reward_function(self, index: int) -> Callable[..., list[float]]:
        def reward(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
            return self._now.rewards[index]

        return reward


def _prepare_steps() -> list[PreparedStep]:
    generator = random.Random(0)
    return [_prepare_step(generator) for _ in range(VARIANTS)]


def _prepare_step(generator: random.Random) -> PreparedStep:
    return PreparedStep(
        [(key, usual * generator.gauss(1, 0.03)) for key, usual in USUAL_VALUES.items()],
        [[generator.random() for _ in range(COMPLETIONS)] for _ in REWARD_FUNCTIONS],
        [generator.gauss(0, 1) for _ in range(COMPLETIONS)],
        torch.tensor(generator.gauss(0.05, 0.01)),
        torch.tensor(generator.gauss(0.5, 0.02)),
    )
