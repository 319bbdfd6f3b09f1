"""Everything at once: GRPO with reward functions and a reward model, checkpoints, journal and reports.

python examples/full.py
"""

from __future__ import annotations

from pathlib import Path

from tiny import brevity, make_reward_model, parts, sorted_share

from rlhf_otel.trl_integration import TRLIntegrationConfig, TRLIntegrationManager


def main() -> None:
    """Train for some steps, and say where the reports are."""
    given, steps = parts(__doc__)
    manager = TRLIntegrationManager(
        TRLIntegrationConfig(
            algorithm="grpo",
            reward_functions=(sorted_share, brevity),
            reward_model=make_reward_model(given.model, Path(given.output) / "reward_model"),
            batch_size=8,
            learning_rate=1e-3,
            kl_coefficient=0.04,
            max_completion_tokens=24,
            output_dir=given.output,
            save_steps=max(1, steps // 2),
            enable_profiling=True,
        )
    )
    manager.setup_trl_trainer(given.model, given.data)
    results = manager.train_with_monitoring(num_steps=steps, save_checkpoints=True)
    print(results["verdict"])
    for finding in results["anomalies"]:
        print(f"{finding['severity']} {finding['rule']} at step {finding['first_step']}: {finding['remedy']}")
    for analysis in results["checkpoints"]["analyses"]:
        print(f"checkpoint at step {analysis['step']}: health {analysis['health']}")
    for name, known in results["rewards"].items():
        print(f"{name}: stability {known['stability']:.2f}")
    print("\n".join(results["reports"]))


if __name__ == "__main__":
    main()
