"""What detection does for speed changes no verdict: it is compared with the plainest form, on recorded runs."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from replay_data import CORPUS, Observed, needs_corpus
from straightforward import PlainDetector, PlainDrift

from rlhf_otel.catalogue.rules import RULES, Comparison, NonFinite
from rlhf_otel.catalogue.spans import StepKind
from rlhf_otel.detection.baselines import Baselines
from rlhf_otel.detection.detector import Detector
from rlhf_otel.detection.drift import Drift
from rlhf_otel.records import StepRecord
from rlhf_otel.replay import open_log

USED = sorted(
    {
        name
        for rule in RULES
        for condition in rule.conditions
        for name in (condition.signals if isinstance(condition, NonFinite) else (condition.signal,))
    }
)


def compare(records: Iterable[StepRecord]) -> set[str]:
    """Judge with both; returns the rules that fired."""
    baselines, detector, plain = Baselines(), Detector(), PlainDetector()
    fired: set[str] = set()
    for record in records:
        statistics = baselines.observe(record.kind, record.values)
        found = [(each.rule, each.first_step, each.step) for each in detector.observe(record, statistics)]
        assert sorted(found) == sorted(plain.observe(record, statistics)), f"step {record.step}"
        assert {v.rule.name for v in detector.verdicts if v.active} == plain.active, f"step {record.step}"
        fired |= {rule for rule, *_ in found}
    return fired


def test_on_a_real_run(observed: Observed) -> None:
    assert "RewardFunctionSilent" in compare(open_log(observed.journal).records)


def test_on_a_recorded_log(trainer_state: Path) -> None:
    assert compare(open_log(trainer_state).records) == {"NonFinite"}


@needs_corpus
def test_on_public_logs() -> None:
    fired: set[str] = set()
    for file in sorted(CORPUS.glob("grpo/*.json"))[:5]:
        fired |= compare(open_log(file).records)
    assert len(fired) > 5


def breaching(seed: int) -> Iterable[StepRecord]:
    """A run in which now this, now that signal goes out of its range, at times without the signal or with NaN."""
    rng = random.Random(seed)
    thresholds: dict[str, list[Comparison]] = {}
    for rule in RULES:
        for condition in rule.conditions:
            if isinstance(condition, Comparison):
                thresholds.setdefault(condition.signal, []).append(condition)
    level = {name: rng.uniform(0.05, 0.5) for name in USED}
    odd: dict[str, float] = {}
    for step in range(1, 300):
        if rng.random() < 0.05:
            name = rng.choice(USED)
            threshold = rng.choice([each.threshold for each in thresholds.get(name, ())] or [1.0])
            odd[name] = threshold * rng.choice((-3.0, 0.0, 1.5, 10.0))
        if rng.random() < 0.05:
            odd.clear()
        values = {name: odd.get(name, level[name] * rng.gauss(1, 0.1)) for name in USED if rng.random() > 0.1}
        nonfinite = {"loss": 1} if rng.random() < 0.005 else {}
        kind = StepKind.REUSE if step % 3 == 0 else StepKind.GENERATE
        yield StepRecord(step, 0.0, kind, 0, 1, step * 5 * 10**9, values, nonfinite=nonfinite)


def test_on_runs_in_which_everything_goes_wrong() -> None:
    fired: set[str] = set()
    for seed in range(8):
        fired |= compare(breaching(seed))
    assert len(fired) > 10


@given(st.lists(st.floats(-1e6, 1e6), min_size=20, max_size=300))
@settings(max_examples=60, deadline=None)
def test_drift(values: list[float]) -> None:
    drift, plain = Drift(), PlainDrift()
    for value in values:
        assert drift.observe(value) == plain.observe(value)
