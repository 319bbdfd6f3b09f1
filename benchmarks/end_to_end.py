"""What the callback costs a real GRPO run: the same run with and without it, in pairs, with a confidence interval.

    python benchmarks/end_to_end.py [--pairs 15] [--steps 40] [--json FILE] [--quick]

A real ``GRPOTrainer`` trains a small model on the CPU, in one process: with, without, without, with ... Of each run the
median time of a step counts, since other programs disturb single ones; of each pair the ratio. The interval is
Student's for the mean of the logarithms of the ratios. On a busy machine it is wide by wall clock; the CPU clock of the
training thread, on which waiting for the interpreter does not show, is a second opinion.
"""

from __future__ import annotations

import logging
import math
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median, stdev
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
WARM_UP: Final = 5
"""Steps that don't count."""
STUDENT: Final = {
    2: 12.71,
    3: 4.30,
    4: 3.18,
    5: 2.78,
    6: 2.57,
    8: 2.36,
    10: 2.26,
    12: 2.20,
    15: 2.14,
    20: 2.09,
    30: 2.05,
}
"""Number of pairs to Student's t for 95 %, two-sided; the next smaller number stands in for others."""


class Seconds(NamedTuple):
    """Of a step: median by wall clock, and by the CPU clock of the training thread."""

    wall: float
    cpu: float


class StepTimes(TrainerCallback):
    """Time from the end of a step to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[Seconds] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clocks."""
        self.ends.append(Seconds(perf_counter(), thread_time()))

    def median(self) -> Seconds:
        """Of the steps after the first few."""
        clocks = zip(*self.ends[WARM_UP:], strict=True)
        return Seconds(*(median(later - before for before, later in pairwise(clock)) for clock in clocks))


def reward(completions: list[str], **_: Any) -> list[float]:
    """Some numbers that vary."""
    return [len(set(text)) / 10 for text in completions]


def run(steps: int, observed: bool) -> Seconds:
    """Train; returns the median time of a step in seconds."""
    directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
    times = StepTimes()
    callbacks: list[TrainerCallback] = [times]
    if observed:
        callbacks.insert(0, TelemetryCallback(metrics_port=0, journal=directory / "journal", linger_s=0.0))
    tokenizer = language.tokenizer()
    config = GRPOConfig(
        output_dir=str(directory), max_steps=WARM_UP + steps, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=12, beta=0.05, logging_steps=1, save_strategy="no", use_cpu=True, bf16=False,
        gradient_checkpointing=False, dataloader_pin_memory=False, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(_model(tokenizer)),
        reward_funcs=[reward],
        args=config,
        train_dataset=language.dataset(64, seed=0),
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    serving.close()
    return times.median()


def _model(tokenizer: Any) -> Path:
    directory = offline.DIRECTORY / "model"
    if not directory.exists():
        transformers.set_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Mean slow-down and its 95 % bounds, as shares."""
    logs = [math.log(ratio) for ratio in ratios]
    centre = fmean(logs)
    t = STUDENT[max(pairs for pairs in STUDENT if pairs <= len(logs))]
    half = t * stdev(logs) / math.sqrt(len(logs))
    return math.expm1(centre), math.expm1(centre - half), math.expm1(centre + half)


def _said(slower: float, low: float, high: float) -> str:
    return f"slower by {slower:+.2%} (95 %: {low:+.2%} to {high:+.2%})"


def main() -> int:
    """Measure, print, and fail when the upper bound is above the target."""
    parser = argument_parser(__doc__, quick="two short pairs: does it run at all")
    parser.add_argument("--pairs", type=int, default=15, help="default: %(default)s")
    parser.add_argument(
        "--steps", type=int, default=40, help="measured steps of a run (default: %(default)s)"
    )
    arguments = parser.parse_args()
    pairs, steps = (2, 6) if arguments.quick else (max(2, arguments.pairs), arguments.steps)
    torch.set_num_threads(1)
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)

    print(headline())
    run(2, observed=True)  # what is imported and compiled once
    seconds: dict[bool, list[Seconds]] = {True: [], False: []}
    for pair in range(pairs):
        for observed in (True, False) if pair % 2 else (False, True):
            seconds[observed].append(run(steps, observed))
    step_ms = 1e3 * median(step.wall for step in seconds[False])
    print(f"{pairs} pairs of {steps} steps, {step_ms:.1f} ms a step without it")
    found = {}
    for clock, name in enumerate(Seconds._fields):
        both = zip(seconds[True], seconds[False], strict=True)
        slower, low, high = found[name] = interval([one[clock] / other[clock] for one, other in both])
        print(f"{name:<5}{_said(slower, low, high)}")
    if arguments.json:
        report = {
            "seconds_with": seconds[True],
            "seconds_without": seconds[False],
            "figures": [
                Figure(f"{step_ms:.0f} ms a step, {pairs} pairs, {name} clock", _said(*one))
                for name, one in found.items()
            ]
            + [
                Figure.at_most(
                    "upper bound of the slow-down, wall clock", 100 * found["wall"][2], 100 * TARGET, "%", 2
                )
            ],
            "slow_down": {
                name: dict(zip(("mean", "low", "high"), one, strict=True)) for name, one in found.items()
            },
        }
        write_report(arguments.json, ["rlhf-otel", "trl", "transformers", "torch"], report)
    missed = found["wall"][2] > TARGET and not arguments.quick
    print(f"target: upper bound under {TARGET:.1%}: {'missed' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
