"""What the callback costs a real GRPO run: the same run with it and without, turn by turn, with a confidence interval.

    python benchmarks/end_to_end.py [--turns 100] [--steps 10] [--json FILE] [--quick]

One real ``GRPOTrainer`` trains a small model on the CPU: some steps with the callback, as many without, without, with ...
so that whatever else changes the speed of the machine or of the process changes both. (Two processes with the same program
differ by some percent, which no number of steps averages out.) For each turn with it, the callback is added anew, and taken
away afterwards. Completions are as long as makes a step take :data:`STEP_S`.

Two models, since what the background thread does costs training only where both want the interpreter: one of which most of
the time goes to the interpreter, as with no model that anyone trains, and one whose time goes to arithmetic, as usual.

Of a turn the mean step counts, and of two turns the ratio. The estimate is the pseudomedian of the ratios, and its interval
that of Wilcoxon's signed ranks (Hodges and Lehmann 1963), which a few turns disturbed by other programs don't move. Second
opinions: the median step, and how long the training thread waited without computing, for the interpreter or for a core.
"""

from __future__ import annotations

import gc
import logging
import math
import sys
import tempfile
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean, median
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
STEP_S: Final = 0.060
SETTLE: Final = 12
"""Steps of a turn that don't count: they hold what it takes to add the callback or to take it away, and what the background
thread does once in a run, some tenths of a second after its beginning."""
FEW_TOKENS, MANY_TOKENS = 4, 48
Z95: Final = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Shape:
    """Of the model that is trained."""

    name: str
    hidden_size: int
    layers: int


SHAPES: Final = (Shape("interpreter-bound", 64, 4), Shape("compute-bound", 512, 1))


class Seconds(NamedTuple):
    """Of a step of a turn."""

    mean: float
    median: float
    waited: float
    """Wall time less the CPU time of the training thread, mean."""


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
                seconds = Seconds(fmean(wall), median(wall), fmean(wall) - fmean(cpu))
                self.seconds[self._order[turn]].append(seconds)
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


class Clock(TrainerCallback):
    """How long steps take."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read it."""
        self.ends.append(perf_counter())


def reward(completions: list[str], **_: Any) -> list[float]:
    """Some numbers that vary."""
    return [len(set(text)) / 10 for text in completions]


def trainer_of(shape: Shape, tokens: int, steps: int) -> GRPOTrainer:
    """Of a model that is made here; ``tokens`` is the length of all completions, or steps would differ by chance."""
    directory = Path(tempfile.mkdtemp(dir=offline.DIRECTORY))
    tokenizer = language.tokenizer()
    config = GRPOConfig(
        output_dir=str(directory), max_steps=steps, per_device_train_batch_size=8, num_generations=4,
        max_completion_length=tokens, generation_kwargs={"min_new_tokens": tokens}, beta=0.05, logging_steps=1,
        save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, dataloader_pin_memory=False,
        report_to="none", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(_model(shape, tokenizer, directory)),
        reward_funcs=[reward],
        args=config,
        train_dataset=language.dataset(64, seed=0),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _model(shape: Shape, tokenizer: Any, directory: Path) -> Path:
    transformers.set_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=shape.hidden_size, intermediate_size=2 * shape.hidden_size,
        num_hidden_layers=shape.layers, num_attention_heads=4, max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory / "model")
    return directory / "model"


def length_for(shape: Shape) -> int:
    """Tokens of a completion with which a step takes :data:`STEP_S`, as near as may be: a step's time grows linearly."""
    few, many = (_step_seconds(shape, tokens) for tokens in (FEW_TOKENS, MANY_TOKENS))
    tokens = FEW_TOKENS + (STEP_S - few) / max(1e-9, many - few) * (MANY_TOKENS - FEW_TOKENS)
    return round(min(MANY_TOKENS, max(FEW_TOKENS, tokens)))


def _step_seconds(shape: Shape, tokens: int) -> float:
    clock = Clock()
    trainer = trainer_of(shape, tokens, 12)
    trainer.add_callback(clock)
    trainer.train()
    return median(b - a for a, b in pairwise(clock.ends[1:]))


def compare(shape: Shape, tokens: int, turns: int, steps: int) -> dict[bool, list[Seconds]]:
    """Train in turns, with the callback and without it; returns the turns of each, in their order."""
    found = Turns(turns, steps)
    trainer = trainer_of(shape, tokens, found.total_steps)
    found.observe(trainer)
    gc.freeze()  # what has been imported by now: to look through it would take some steps of some turns longer
    trainer.train()
    gc.unfreeze()
    return found.seconds


# --- what they say


class Estimate(NamedTuple):
    """A centre and its 95 % bounds."""

    centre: float
    low: float
    high: float


def estimate(differences: list[float]) -> Estimate:
    """Pseudomedian and the interval that belongs to it: medians and quantiles of the means of all pairs."""
    count = len(differences)
    means = sorted((one + other) / 2 for at, one in enumerate(differences) for other in differences[at:])
    half = Z95 * math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    lowest = max(0, math.floor(count * (count + 1) / 4 - half))
    return Estimate(median(means), means[lowest], means[-1 - lowest])


def slow_down(with_it: list[float], without: list[float]) -> Estimate:
    """As a share, of pairs of turns."""
    logs = [math.log(one / other) for one, other in zip(with_it, without, strict=True)]
    return Estimate(*map(math.expm1, estimate(logs)))


def measured(shape: Shape, turns: int, steps: int) -> tuple[dict[str, Any], list[Figure]]:
    """Measure one model and print it: its numbers, and its lines of the table."""
    tokens = length_for(shape)
    seconds = compare(shape, tokens, turns, steps)
    columns = {observed: list(zip(*found, strict=True)) for observed, found in seconds.items()}
    step_ms = 1e3 * median(columns[False][0])
    print(
        f"{shape.name}: {step_ms:.1f} ms a step without it ({tokens} tokens), {turns} turns of {steps} steps each"
    )
    mean, middle = (slow_down(columns[True][at], columns[False][at]) for at in (0, 1))
    waited = estimate([1e6 * (a - b) for a, b in zip(columns[True][2], columns[False][2], strict=True)])
    said = {
        "mean step": _share(mean),
        "median step": _share(middle),
        "waited": f"{waited.centre:+.0f} us a step (95 %: {waited.low:+.0f} to {waited.high:+.0f})",
    }
    for what, text in said.items():
        print(f"  {what:<12}{text}", flush=True)
    name = f"{shape.name}, {step_ms:.0f} ms a step"
    figures = [Figure(f"{name}: {what}", text) for what, text in said.items()]
    figures.append(Figure.at_most(f"{name}: upper bound, mean step", 100 * mean.high, 100 * TARGET, "%", 2))
    numbers = {
        "tokens": tokens,
        "seconds_with": seconds[True],
        "seconds_without": seconds[False],
        "mean_step": mean._asdict(),
        "median_step": middle._asdict(),
        "waited_us": waited._asdict(),
    }
    return numbers, figures


def _share(found: Estimate) -> str:
    return f"slower by {found.centre:+.2%} (95 %: {found.low:+.2%} to {found.high:+.2%})"


def main() -> int:
    """Measure, print, and fail when an upper bound is above the target."""
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
    numbers: dict[str, Any] = {}
    figures: list[Figure] = []
    for shape in SHAPES:
        numbers[shape.name], lines = measured(shape, turns, steps)
        figures += lines
    if arguments.json:
        packages = ["rlhf-otel", "trl", "transformers", "torch"]
        write_report(arguments.json, packages, {"models": numbers, "figures": figures})
    missed = any(one.met is False for one in figures) and not arguments.quick
    print(f"target: upper bounds under {TARGET:.1%}: {'missed' if missed else 'met'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
