"""What the callback costs a real GRPO run: the same run with it and without, turn by turn, with a confidence interval.

    python benchmarks/end_to_end.py [--turns 100] [--steps 10] [--json FILE] [--quick]

One real ``GRPOTrainer`` trains a small model on the CPU: some steps with the callback, as many without, without, with ...
so that whatever else changes the speed of the machine or of the process changes both. (Two processes with the same program
differ by some percent, which no number of steps averages out.) For each turn with it, the callback is added anew, and taken
away afterwards. Of a turn the median step counts, since other programs disturb single ones, and of two turns the ratio. The
interval is Student's for the mean of the logarithms of the ratios. The mean steps, which hold what disturbs single ones,
and the CPU clock of the training thread, on which waiting for the interpreter does not show, are second opinions.
"""

from __future__ import annotations

import gc
import logging
import math
import sys
import tempfile
import warnings
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from time import perf_counter, thread_time
from typing import Any, Final, NamedTuple

import offline  # before what it keeps off the network
import torch
import transformers
from figures import Figure
from machine import argument_parser, headline, write_report
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from rlhf_otel import TelemetryCallback, serving
from rlhf_otel.demo import language

TARGET: Final = 0.005
"""Upper bound of the slow-down that is allowed, as a share of the step."""
SETTLE: Final = 4
"""Steps of a turn that don't count: the first holds what it takes to add the callback or to take it away."""
TOKENS: Final = 24
"""Of each completion: all are as long, or steps would differ by chance."""
Z95: Final = NormalDist().inv_cdf(0.975)


class Seconds(NamedTuple):
    """Of a step of a turn."""

    median: float
    mean: float
    cpu: float
    """Median by the CPU clock of the training thread."""


class Turns(TrainerCallback):
    """Adds the callback to a trainer and takes it away, turn by turn. The last of its callbacks."""

    def __init__(self, turns: int, steps: int) -> None:
        self.seconds: dict[bool, list[Seconds]] = {True: [], False: []}
        # The first turn of each does not count: what is imported and compiled once.
        self._order = [
            observed for at in range(turns + 1) for observed in ((True, False), (False, True))[at % 2]
        ]
        self._steps = steps
        self._trainer: Any = None
        self._telemetry: TelemetryCallback | None = None
        self._ends: list[tuple[float, float]] = []

    @property
    def total_steps(self) -> int:
        """Of training."""
        return len(self._order) * (SETTLE + self._steps + 1)

    def observe(self, trainer: Any) -> None:
        """Take turns in this trainer's training."""
        self._trainer = trainer
        trainer.add_callback(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clocks; begin the next turn when this one is over."""
        done = state.global_step - 1
        turn, step = divmod(done, SETTLE + self._steps + 1)
        if step == 0:
            self._begin(self._order[turn], args, state, control)
        elif step >= SETTLE:
            self._ends.append((perf_counter(), thread_time()))
        if len(self._ends) == self._steps + 1:
            wall, cpu = ([b - a for a, b in pairwise(clock)] for clock in zip(*self._ends, strict=True))
            if turn > 1:
                self.seconds[self._order[turn]].append(Seconds(median(wall), fmean(wall), median(cpu)))
            self._ends = []

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the last turn."""
        self._leave()

    def _begin(self, observed: bool, args: Any, state: Any, control: Any) -> None:
        self._leave()
        if observed:
            journal = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
            self._telemetry = TelemetryCallback(metrics_port=0, journal=journal, linger_s=0.0)
            self._telemetry.adopt(self._trainer)
            self._telemetry.on_train_begin(args, state, control)
            self._trainer.callback_handler.callbacks.insert(0, self._telemetry)
        gc.collect()

    def _leave(self) -> None:
        if self._telemetry is not None:
            self._trainer.callback_handler.callbacks.remove(self._telemetry)
            self._telemetry.detach()
            serving.close()
            self._telemetry = None


def reward(completions: list[str], **_: Any) -> list[float]:
    """Some numbers that vary."""
    return [len(set(text)) / 10 for text in completions]


def compare(turns: int, steps: int) -> dict[bool, list[Seconds]]:
    """Train in turns, with the callback and without it; returns the turns of each, in their order."""
    directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
    tokenizer = language.tokenizer()
    found = Turns(turns, steps)
    config = GRPOConfig(
        output_dir=str(directory), max_steps=found.total_steps, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=TOKENS, generation_kwargs={"min_new_tokens": TOKENS}, beta=0.05, logging_steps=1,
        save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, dataloader_pin_memory=False,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(_model(tokenizer, directory)),
        reward_funcs=[reward],
        args=config,
        train_dataset=language.dataset(64, seed=0),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    found.observe(trainer)
    trainer.train()
    return found.seconds


def _model(tokenizer: Any, directory: Path) -> Path:
    transformers.set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=5,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory / "model")
    return directory / "model"


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Mean slow-down and its 95 % bounds, as shares."""
    logs = [math.log(ratio) for ratio in ratios]
    centre, freedom = fmean(logs), len(logs) - 1
    t = Z95 + (Z95**3 + Z95) / (4 * freedom)  # Student's t from the normal distribution, Cornish and Fisher
    half = t * stdev(logs) / math.sqrt(len(logs))
    return math.expm1(centre), math.expm1(centre - half), math.expm1(centre + half)


def _said(slower: float, low: float, high: float) -> str:
    return f"slower by {slower:+.2%} (95 %: {low:+.2%} to {high:+.2%})"


def main() -> int:
    """Measure, print, and fail when the upper bound is above the target."""
    parser = argument_parser(__doc__, quick="two short turns: does it run at all")
    parser.add_argument("--turns", type=int, default=100, help="of each kind (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=10, help="measured steps of a turn (default: %(default)s)"
    )
    arguments = parser.parse_args()
    turns, steps = (2, 3) if arguments.quick else (max(3, arguments.turns), arguments.steps)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)

    print(headline(), flush=True)
    seconds = compare(turns, steps)
    step_ms = 1e3 * median(one.median for one in seconds[False])
    print(f"{turns} turns of {steps} steps each, {step_ms:.1f} ms a step without it")
    found = {}
    for position, name in enumerate(Seconds._fields):
        both = zip(seconds[True], seconds[False], strict=True)
        found[name] = interval([one[position] / other[position] for one, other in both])
        print(f"{name:<8}{_said(*found[name])}")
    if arguments.json:
        report = {
            "seconds_with": seconds[True],
            "seconds_without": seconds[False],
            "figures": [
                Figure(f"{step_ms:.0f} ms a step, {turns} turns of {steps}, {name}", _said(*one))
                for name, one in found.items()
            ]
            + [
                Figure.at_most(
                    "upper bound of the slow-down, median step",
                    100 * found["median"][2],
                    100 * TARGET,
                    "%",
                    2,
                )
            ],
            "slow_down": {
                name: dict(zip(("centre", "low", "high"), one, strict=True)) for name, one in found.items()
            },
        }
        write_report(arguments.json, ["rlhf-otel", "trl", "transformers", "torch"], report)
    missed = found["median"][2] > TARGET and not arguments.quick
    print(f"target: upper bound under {TARGET:.1%}: {'missed' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
