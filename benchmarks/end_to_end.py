"""What the callback costs a real GRPO run: one with it and one without, turn by turn, with a confidence interval.

    python benchmarks/end_to_end.py [--turns 100] [--steps 10] [--json FILE] [--quick]

Two processes train the same small model with a real ``GRPOTrainer`` on the CPU. Only one of them runs at a time: some steps
with the callback, as many without, without, with ... so that whatever else changes the speed of the machine changes both. Of
a turn the median step counts, since other programs disturb single ones, and of two turns the ratio. The interval is Student's
for the mean of the logarithms of the ratios. The mean steps, which hold what disturbs single ones, and the CPU clock of the
training thread, on which waiting for the interpreter does not show, are second opinions.
"""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from time import perf_counter, thread_time
from typing import IO, Any, Final, NamedTuple

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
WARM_UP: Final = 25
"""Steps before the first turn: baselines learn from 20."""
TOKENS: Final = 24
"""Of each completion: all are as long, or steps would differ by chance."""
ANSWER: Final = "turn: "
"""Begins the lines that are meant for the other process; others print, too."""
FOREVER: Final = 1_000_000
Z95: Final = NormalDist().inv_cdf(0.975)


class Seconds(NamedTuple):
    """Of a step of a turn."""

    median: float
    mean: float
    cpu: float
    """Median by the CPU clock of the training thread."""


# --- the process that trains


class Turns(TrainerCallback):
    """Trains ``steps`` steps when told to, says how long they took, and waits for the next turn."""

    def __init__(self, steps: int, said: IO[str]) -> None:
        self._steps = steps
        self._said = said
        self._ends: list[tuple[float, float]] = []
        self._waited = WARM_UP

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clocks."""
        if self._waited:
            self._waited -= 1
            if self._waited == 0:
                self._take_turn("", control)
            return
        self._ends.append((perf_counter(), thread_time()))
        if len(self._ends) == self._steps + 2:  # the first step of a turn finds other things in the caches
            del self._ends[0]
            wall, cpu = ([b - a for a, b in pairwise(clock)] for clock in zip(*self._ends, strict=True))
            self._ends = []
            self._take_turn(json.dumps(Seconds(median(wall), fmean(wall), median(cpu))), control)

    def _take_turn(self, said: str, control: Any) -> None:
        print(ANSWER + said, file=self._said, flush=True)
        if sys.stdin.readline().strip() != "go":
            control.should_training_stop = True


def reward(completions: list[str], **_: Any) -> list[float]:
    """Some numbers that vary."""
    return [len(set(text)) / 10 for text in completions]


def train(steps: int, observed: bool, said: IO[str]) -> None:
    """Train in turns of ``steps`` steps, until told to stop."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    logging.getLogger("rlhf_otel").setLevel(logging.CRITICAL)
    directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
    callbacks: list[TrainerCallback] = [Turns(steps, said)]
    if observed:
        callbacks.insert(0, TelemetryCallback(metrics_port=0, journal=directory / "journal", linger_s=0.0))
    tokenizer = language.tokenizer()
    config = GRPOConfig(
        output_dir=str(directory), max_steps=FOREVER, per_device_train_batch_size=8, num_generations=4,
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
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    serving.close()


def _model(tokenizer: Any, directory: Path) -> Path:
    transformers.set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=5,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory / "model")
    return directory / "model"


# --- the process that compares


@contextmanager
def training(steps: int, observed: bool) -> Iterator[subprocess.Popen[str]]:
    """A process that trains, once it is ready for its first turn."""
    command = [sys.executable, __file__, "--train", "with" if observed else "without", "--steps", str(steps)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            _heard(process)
            yield process
        finally:
            _say(process, "stop")


def turn(process: subprocess.Popen[str]) -> Seconds:
    """Let it train for a turn."""
    _say(process, "go")
    return Seconds(*json.loads(_heard(process)))


def _say(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdin is not None
    print(word, file=process.stdin, flush=True)


def _heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(ANSWER):
            return line.removeprefix(ANSWER)
    raise RuntimeError(f"training ended with status {process.wait()}: see what it wrote above")


def interval(ratios: list[float]) -> tuple[float, float, float]:
    """Mean slow-down and its 95 % bounds, as shares."""
    logs = [math.log(ratio) for ratio in ratios]
    centre, freedom = fmean(logs), len(logs) - 1
    t = Z95 + (Z95**3 + Z95) / (4 * freedom)  # Student's t from the normal distribution, Cornish and Fisher
    half = t * stdev(logs) / math.sqrt(len(logs))
    return math.expm1(centre), math.expm1(centre - half), math.expm1(centre + half)


def _said(slower: float, low: float, high: float) -> str:
    return f"slower by {slower:+.2%} (95 %: {low:+.2%} to {high:+.2%})"


def compare(turns: int, steps: int) -> dict[bool, list[Seconds]]:
    """With the callback and without it: the turns, in their order."""
    found: dict[bool, list[Seconds]] = {True: [], False: []}
    with training(steps, observed=True) as one, training(steps, observed=False) as other:
        for position in range(turns):
            for observed in (True, False) if position % 2 else (False, True):
                found[observed].append(turn(one if observed else other))
    return found


def main() -> int:
    """Measure, print, and fail when the upper bound is above the target."""
    parser = argument_parser(__doc__, quick="two short turns: does it run at all")
    parser.add_argument("--turns", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="steps of a turn (default: %(default)s)")
    parser.add_argument("--train", choices=("with", "without"), help="be the process that trains")
    arguments = parser.parse_args()
    if arguments.train:
        said, sys.stdout = sys.stdout, sys.stderr  # what others print is no answer
        train(arguments.steps, arguments.train == "with", said)
        return 0
    turns, steps = (2, 3) if arguments.quick else (max(3, arguments.turns), arguments.steps)

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
