"""The run that is observed: GRPO on a tiny policy, for real.

``python -m rlhf_otel.demo.train --run-dir DIR --fault learning-rate`` is an ordinary TRL script. What it
trains and how it is broken are told by arguments; the telemetry is one callback, configured by environment.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rlhf_otel.demo import faults, language, rewards
from rlhf_otel.demo.breaking import BreakableRewards, Dose, Target

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

COMPLETIONS: Final = 64
GROUP: Final = 8
PROMPTS: Final = 4000
EVALUATION_PROMPTS: Final = 16


@dataclass(frozen=True)
class Settings:
    """One run of the demonstration."""

    run_dir: Path
    steps: int = 300
    seed: int = 0
    logging_steps: int = 10
    pretraining_steps: int = 140
    fault: str = faults.NONE
    fault_step: int | None = None
    stall_seconds: float = 45.0

    @property
    def dose(self) -> Dose:
        """Where and how strongly the fault strikes."""
        step = self.fault_step or faults.default_step(self.steps)
        return Dose(step=step, stall_seconds=self.stall_seconds)


def build_trainer(settings: Settings, callbacks: Sequence[TrainerCallback] = ()) -> GRPOTrainer:
    """Pretrain the policy and return the trainer, with the fault of the settings laid in it."""
    breakable = BreakableRewards.of(rewards.REWARD_FUNCTIONS)
    trainer = plain_trainer(settings, breakable.functions, callbacks)
    fault = faults.FAULTS[settings.fault]
    faults.inject(fault, Target(trainer, breakable), settings.dose, settings.run_dir)
    return trainer


def plain_trainer(
    settings: Settings,
    reward_functions: Sequence[rewards.RewardFunction],
    callbacks: Sequence[TrainerCallback] = (),
) -> GRPOTrainer:
    """Pretrain the policy and return the trainer as TRL makes it."""
    from transformers import PrinterCallback
    from trl import GRPOTrainer

    settings.run_dir.mkdir(parents=True, exist_ok=True)
    functions: list[Any] = list(reward_functions)
    trainer = GRPOTrainer(
        model=_base_model(settings),
        reward_funcs=functions,
        args=_configuration(settings),
        train_dataset=language.dataset(PROMPTS, seed=settings.seed),
        eval_dataset=language.dataset(EVALUATION_PROMPTS, seed=settings.seed + 1),
        processing_class=language.tokenizer(),
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _base_model(settings: Settings) -> str:
    """Pretrain the policy and save it: TRL loads it a second time, as the reference model."""
    from rlhf_otel.demo.model import pretrained

    directory = settings.run_dir / "base"
    tokenizer = language.tokenizer()
    pretrained(tokenizer, settings.seed, settings.pretraining_steps).save_pretrained(directory)
    return str(directory)


def _configuration(settings: Settings) -> GRPOConfig:
    """Return a run that stays healthy over several hundred steps."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(settings.run_dir / "checkpoints"),
        max_steps=settings.steps,
        seed=settings.seed,
        per_device_train_batch_size=COMPLETIONS,
        per_device_eval_batch_size=COMPLETIONS,
        num_generations=GROUP,
        num_generations_eval=COMPLETIONS // EVALUATION_PROMPTS,
        max_completion_length=language.MAX_COMPLETION_TOKENS,
        reward_weights=list(rewards.REWARD_WEIGHTS),
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        beta=0.1,
        # Without these two the policy sharpens until KL and gradients of rare tokens have heavy tails.
        entropy_coef=0.03,
        min_p=0.02,
        logging_steps=settings.logging_steps,
        eval_strategy="steps",
        eval_steps=max(1, settings.steps // 3),
        save_steps=max(1, settings.steps // 2),
        save_total_limit=1,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        disable_tqdm=True,
    )


def _parse(arguments: Sequence[str] | None) -> Settings:
    parser = argparse.ArgumentParser(prog="python -m rlhf_otel.demo.train", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="where checkpoints and fault.json go")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--logging-steps", type=int, default=Settings.logging_steps)
    parser.add_argument("--fault", choices=sorted(faults.FAULTS), default=Settings.fault)
    parser.add_argument("--fault-step", type=int, help="default: at 45 %% of the steps")
    parser.add_argument("--stall-seconds", type=float, default=Settings.stall_seconds)
    return Settings(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train once. An exception of the trainer is this process's end, as in any training script."""
    settings = _parse(arguments)
    _prepare_process()
    from rlhf_otel import TelemetryCallback

    build_trainer(settings, callbacks=[TelemetryCallback()]).train()


def _prepare_process() -> None:
    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)  # faster than two for matrices this small
    warnings.simplefilter("ignore", FutureWarning)
    datasets.disable_progress_bars()
    chatter: Any = transformers.utils.logging
    chatter.set_verbosity_error()
    chatter.disable_progress_bar()


if __name__ == "__main__":
    main()
