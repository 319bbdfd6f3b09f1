"""Rules for PPO, preference trainers and reward models: a course that goes wrong, and one that only looks odd."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from rlhf_otel.catalogue.rules import RULE_BY_NAME, Severity
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.detector import Detector
from rlhf_otel.records import StepRecord
from rlhf_otel.sources.ppo_cells import PPOCells

STEPS = 300
CHANGE = 150
Course = Callable[[int, random.Random], dict[str, float]]


def fired(course: Course, steps: int = STEPS) -> list[str]:
    """Names of the rules that fire on a course of values."""
    rng, baselines, detector = random.Random(0), Baselines(), Detector()
    names = []
    for step in range(1, steps + 1):
        record = StepRecord(step, 0.0, StepKind.GENERATE, 0, 1, step * 10**9, course(step, rng))
        for name, value in record.values.items():
            if value - value != 0.0:
                record.nonfinite[name] = 1
        anomalies = detector.observe(record, baselines.observe(record.kind, record.values))
        names += [anomaly.rule for anomaly in anomalies]
    return names


def late(step: int, before: float, after: float) -> float:
    return before if step < CHANGE else after


def ramp(step: int, before: float, slope: float) -> float:
    return before + slope * max(0, step - CHANGE)


def ppo(step: int, rng: random.Random, **more: float) -> dict[str, float]:
    """A healthy PPO step: KL grows slowly, the value function learns, ratios stay near 1."""
    return {
        "kl_per_sequence": 3 + 0.02 * step + rng.gauss(0, 0.6),
        "value_loss": 0.5 / (1 + step / 50) + abs(rng.gauss(0, 0.02)),
        "clip_region_ratio": 0.12 + rng.gauss(0, 0.02),
        "policy_ratio_variance": abs(rng.gauss(4e-4, 2e-4)),
        "eos_per_completion": min(1.0, max(0.0, rng.gauss(0.8, 0.1))),
        "entropy": 2.0 - step * 1e-3 + rng.gauss(0, 0.03),
        "reward": 0.1 + 1e-3 * step + rng.gauss(0, 0.05),
        **more,
    }


def preference(step: int, rng: random.Random, **more: float) -> dict[str, float]:
    """A healthy DPO step in batches of 8: accuracy 0 at first, then rising; rejected falls, chosen stays."""
    chance = min(0.9, 0.5 + step / 300)
    return {
        "preference_accuracy": sum(rng.random() < chance for _ in range(8)) / 8 if step > 1 else 0.0,
        "preference_margin": 0.004 * step + rng.gauss(0, 0.05),
        "chosen_logprob": -120 + rng.gauss(0, 4),
        "rejected_logprob": -130 - 0.05 * step + rng.gauss(0, 4),
        "chosen_reward": 0.002 * step + rng.gauss(0, 0.05),
        "rejected_reward": -0.002 * step + rng.gauss(0, 0.05),
        "loss": 0.69 - 0.001 * step + rng.gauss(0, 0.02),
        **more,
    }


BAD: list[tuple[str, Course]] = [
    ("SequenceKLRunaway", lambda s, r: ppo(s, r, kl_per_sequence=ramp(s, 5, 3.0) + r.gauss(0, 0.5))),
    ("SampledKLRunaway", lambda s, r: {"kl_per_token_sampled": ramp(s, 0.05, 0.05) + r.gauss(0, 0.01)}),
    ("KLNegative", lambda s, r: ppo(s, r, kl_per_sequence=-4 + r.gauss(0, 0.6))),
    ("ValueDivergence", lambda s, r: ppo(s, r, value_loss=late(s, 0.2, 2.0) + abs(r.gauss(0, 0.02)))),
    ("ClipFractionHigh", lambda s, r: ppo(s, r, clip_region_ratio=late(s, 0.1, 0.5) + r.gauss(0, 0.02))),
    ("PolicyRatioBlowUp", lambda s, r: ppo(s, r, policy_ratio_variance=late(s, 4e-4, 0.1) + abs(r.gauss(0, 1e-4)))),
    ("EOSMissing", lambda s, r: ppo(s, r, eos_per_completion=late(s, 0.8, 0.0))),
    ("EOSMissing", lambda s, r: ppo(s, r, eos_per_completion=0.0)),
    ("CompletionsWithoutEOS", lambda s, r: {"eos_ratio": late(s, 0.9, 0.0)}),
    ("PreferenceBelowChance", lambda s, r: preference(s, r, preference_accuracy=sum(r.random() < 0.2 for _ in range(8)) / 8)),
    ("PreferenceMarginCollapse", lambda s, r: preference(s, r, preference_margin=late(s, 1.0, 0.0) + r.gauss(0, 0.05))),
    # Chosen falls alone: what that costs is the margin.
    ("PreferenceMarginCollapse", lambda s, r: preference(
        s, r, chosen_logprob=late(s, -120, -160) + r.gauss(0, 4), chosen_reward=late(s, 0.5, -0.5) + r.gauss(0, 0.05),
        rejected_logprob=-130 + r.gauss(0, 4), rejected_reward=-0.5 + r.gauss(0, 0.05),
        preference_margin=late(s, 1.0, 0.0) + r.gauss(0, 0.05))),
    ("LikelihoodDisplacement", lambda s, r: preference(
        s, r, chosen_logprob=ramp(s, -120, -2) + r.gauss(0, 4), rejected_logprob=ramp(s, -130, -3) + r.gauss(0, 4),
        chosen_reward=ramp(s, 0.1, -0.02))),
    ("GradientLost", lambda s, r: preference(s, r, grad_norm=late(s, 1.0, 0.01) + abs(r.gauss(0, 0.001)))),
    ("GradientLost", lambda s, r: ppo(s, r, grad_norm=late(s, 1.0, 0.0))),
    ("PreferenceSaturated", lambda s, r: preference(s, r, preference_accuracy=1.0)),
    ("NonFinite", lambda s, r: ppo(s, r, value_loss=late(s, 0.2, float("nan")))),
    ("NonFinite", lambda s, r: ppo(s, r, kl_per_sequence=late(s, 3.0, float("inf")))),
]  # fmt: skip

ODD: list[tuple[str, Course]] = [
    ("healthy PPO", ppo),
    ("KL a little below zero", lambda s, r: ppo(s, r, kl_per_sequence=r.gauss(-0.05, 0.4))),
    ("KL rises to where it trains", lambda s, r: ppo(s, r, kl_per_sequence=min(20.0, 0.2 * s) + r.gauss(0, 0.5))),
    ("one wild mini-batch", lambda s, r: ppo(s, r, policy_ratio_variance=0.05 if s == CHANGE else 4e-4)),
    ("variance that is tiny, whatever its ratio", lambda s, r: ppo(s, r, policy_ratio_variance=late(s, 1e-8, 1e-5))),
    ("end tokens in every tenth completion", lambda s, r: ppo(s, r, eos_per_completion=0.1)),
    ("healthy DPO", preference),
    ("a gradient norm that falls by and by", lambda s, r: preference(s, r, grad_norm=1.0 / (1 + s / 20) + abs(r.gauss(0, 0.02)))),
    ("one batch without gradient", lambda s, r: preference(s, r, grad_norm=0.0 if s == CHANGE else 1.0)),
    ("GRPO, of a coarse reward", lambda s, r: {
        "grad_norm": 0.0 if s % 10 in (1, 2, 3) else 1.0, "reward_std": 0.1,
        "zero_advantage_groups": 1.0 if s % 10 in (1, 2, 3) else 0.5}),
    ("pairs that nobody can tell apart", lambda s, r: preference(
        s, r, preference_accuracy=sum(r.random() < 0.5 for _ in range(4)) / 4, preference_margin=r.gauss(0, 0.02))),
    ("rejected falls alone", lambda s, r: preference(s, r, rejected_logprob=ramp(s, -130, -3) + r.gauss(0, 4))),
    ("CPO, whose chosen reward is below zero", lambda s, r: preference(s, r, chosen_reward=-12 + r.gauss(0, 0.4))),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "course"), BAD, ids=[name for name, _ in BAD])
def test_a_course_that_goes_wrong(rule: str, course: Course) -> None:
    assert rule in fired(course)


@pytest.mark.parametrize(("name", "course"), ODD, ids=[name for name, _ in ODD])
def test_a_course_that_only_looks_odd(name: str, course: Course) -> None:
    loud = [rule for rule in fired(course) if RULE_BY_NAME[rule].severity is not Severity.INFO]
    assert not loud


def test_every_signal_that_must_be_finite_pages() -> None:
    for signal in (signal.name for signal in SIGNALS if signal.watch_nonfinite):
        assert "NonFinite" in fired(lambda s, r, name=signal: {name: late(s, 1.0, float("nan"))}, CHANGE)


def test_a_single_cell_is_no_anomaly() -> None:
    cells = PPOCells(cells=1, filled=1, kl_coefficient=0.05, value_coefficient=0.1, completions=4)

    def course(step: int, rng: random.Random) -> dict[str, float]:
        values = ppo(step, rng, policy_ratio=1.0, policy_ratio_variance=float("nan"))
        cells.correct(values)
        return values

    assert not [rule for rule in fired(course) if rule == "NonFinite"]


def test_swapped_parts_of_a_data_set_are_told_from_chance() -> None:
    def accuracy(share: float) -> Course:
        return lambda s, r: {"preference_accuracy": sum(r.random() < share for _ in range(8)) / 8}

    verdicts: Sequence[bool] = [
        "PreferenceBelowChance" in fired(accuracy(share), 400) for share in (0.25, 0.5)
    ]
    assert verdicts == [True, False]
