"""Rewards: how far to trust one, step by step, without a trainer.

python examples/reward.py
"""

from __future__ import annotations

import random

from tiny import brevity, parts, sorted_share

from rlhf_otel.demo import language
from rlhf_otel.trl_integration import RewardModelIntegrator


def main() -> None:
    """Score completions by a reward that works, and by one that has collapsed."""
    given, steps = parts(__doc__)
    integrator = RewardModelIntegrator(log_dir=f"{given.output}/reward_logs")
    dice = random.Random(0)
    for step in range(1, steps + 1):
        drawn = language.questions(32, dice)
        completions = [language.demonstration(numbers, dice) for numbers in drawn]
        answers = [language.answer(numbers) for numbers in drawn]
        for name, scores in (
            ("sorted_share", sorted_share(completions, answers)),
            ("brevity", brevity(completions)),
            ("collapsed", [0.5] * len(completions)),
        ):
            integrator.monitor_reward_model(scores, step, completions, name)
    for name, known in integrator.log(steps).items():
        print(f"{name}: stability {known['stability']:.2f}")
        for advice in known["recommendations"]:
            print(f"  {advice['weakness']}: {advice['reason']}; {advice['remedy']}")
    print(f"log: {integrator.log_dir}/reward_model.jsonl")


if __name__ == "__main__":
    main()
