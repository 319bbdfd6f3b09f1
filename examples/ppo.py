"""PPO from a model and a data set to a report. Needs a TRL that has PPO, such as 1.12.

python examples/ppo.py
python examples/ppo.py --model gpt2 --data imdb --steps 100
"""

from __future__ import annotations

from tiny import parts

from rlhf_otel.trl_integration import TRLIntegrationConfig, TRLIntegrationManager


def main() -> None:
    """Train for some steps."""
    given, steps = parts(__doc__)
    manager = TRLIntegrationManager(
        TRLIntegrationConfig(
            algorithm="ppo",
            learning_rate=1e-5,
            batch_size=4,
            gradient_accumulation_steps=2,
            ppo_epochs=2,
            kl_coefficient=0.05,
            max_completion_tokens=16,
            output_dir=given.output,
            save_steps=max(1, steps // 2),
        )
    )
    manager.setup_trl_trainer(given.model, given.data)
    results = manager.train_with_monitoring(num_steps=steps, save_checkpoints=True)
    print(results["verdict"])
    for name, signal in results["summary"]["signals"].items():
        if name in ("score", "kl_per_sequence", "value_loss", "kl_policy_loss_ratio"):
            print(f"{name}: {signal['first']:.4g} -> {signal['last']:.4g}")
    print("\n".join(results["reports"]))


if __name__ == "__main__":
    main()
