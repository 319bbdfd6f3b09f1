"""Callbacks: one that observes, and one of your own, on a GRPO trainer.

python examples/callbacks.py
"""

from __future__ import annotations

from typing import Any

from datasets import load_from_disk
from tiny import brevity, parts, sorted_share
from trl import GRPOConfig, GRPOTrainer

from rlhf_otel.trl_integration import PPOMonitoringCallback, TrainingCallback


class Narrator(TrainingCallback):
    """Says what the reward does, and stops a run whose KL runs away."""

    def on_signals(self, step: int, signals: dict[str, float], control: Any) -> None:
        """Called with each log; the names are those of docs/metrics.md."""
        print(f"step {step}: reward {signals['reward']:.3f}, KL {signals['kl_per_token']:.4f}")
        if signals["kl_per_token"] > 2.0:
            control.should_training_stop = True


def main() -> None:
    """Train for some steps."""
    given, steps = parts(__doc__)
    arguments = GRPOConfig(
        output_dir=given.output, per_device_train_batch_size=8, num_generations=4, max_completion_length=24,
        max_steps=steps, logging_steps=1, learning_rate=1e-3, beta=0.04, report_to="none", disable_tqdm=True,
        save_strategy="no", bf16=False,
    )  # fmt: skip
    monitoring = PPOMonitoringCallback(log_dir=f"{given.output}/logs", enable_detailed_logging=True)
    GRPOTrainer(
        model=given.model,
        reward_funcs=[sorted_share, brevity],
        args=arguments,
        train_dataset=load_from_disk(given.data),
        callbacks=[Narrator(), monitoring],
    ).train()
    print(f"journal: {given.output}/logs; rlhf-otel report {given.output}/logs")


if __name__ == "__main__":
    main()
