"""Every rule fires on a real run and is silent on another that has its signals; what no real run can show here says why."""

from __future__ import annotations

import pytest
from real_runs import NAMES, fired, signals

from rlhf_otel.catalogue.rules import RULES, Rule, RuleClass, Severity

_GPU = "needs a GPU"
_SERVER = "needs an asynchronous trainer with a vLLM server"
_PPO = "needs PPO, of another TRL version"
_CHECKPOINTS = "judged on real checkpoints by the tests of the analyser"
_UNBROKEN = "no online or preference run has been broken like that yet"
WITHOUT_EVIDENCE = {
    "GPUMemoryNearLimit": _GPU,
    "GPUMemoryLeak": _GPU,
    "OptimizerStepsSkipped": "needs fp16 with loss scaling, which a CPU has not",
    "HostMemoryGrowth": "needs minutes of growth on a host that is half full",
    "CheckpointDiskLow": "needs a full disk",
    "ValueDivergence": _PPO,
    "ValueClipFractionHigh": _PPO,
    "PolicyRatioBlowUp": _PPO,
    "EOSMissing": _PPO,
    "SequenceKLRunaway": _PPO,
    "CompletionsWithoutEOS": _UNBROKEN,
    "KLNegative": _PPO,
    "GradientLost": _UNBROKEN,
    "LikelihoodDisplacement": _UNBROKEN,
    "PreferenceSaturated": _UNBROKEN,
    "CheckpointUnhealthy": _CHECKPOINTS,
    "CheckpointNothingLearned": _CHECKPOINTS,
    "ToolsFailing": "needs a model that calls tools",
    "SamplerMismatch": _SERVER,
    "WeightSyncSlow": _SERVER,
    "WeightSyncFailing": _SERVER,
    "ImportanceWeightHigh": _SERVER,
    "ImportanceWeightLow": _SERVER,
    "RewardFunctionFailing": "ends most runs at once; shown by a test of a trainer that goes on",
    "SamplerRetrying": _SERVER,
    "SamplesStale": _SERVER,
    "StaleSamplesDropped": _SERVER,
    "RolloutWaitHigh": _SERVER,
    "RolloutBackpressure": _SERVER,
    "RatioToSamplerBlowUp": _SERVER,
}
"""These are tested on synthetic series alone, in test_detector."""

ONLY_IN_BREACH = frozenset({"kl_unobserved"})
"""Signals that are there only to say that something is missing."""

JUDGED = [rule for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE]
SHOWN = [rule for rule in JUDGED if rule.name not in WITHOUT_EVIDENCE]
HEALTHY = [name for name in NAMES if name.startswith("healthy-")]


@pytest.mark.parametrize("rule", SHOWN, ids=lambda rule: rule.name)
def test_it_fires_on_a_real_run_and_is_silent_on_another(rule: Rule) -> None:
    assert [name for name in NAMES if rule.name in fired(name)], "no real run makes it fire"
    assert [
        name
        for name in NAMES
        if rule.name not in fired(name) and rule.needs - ONLY_IN_BREACH <= signals(name)
    ]


def test_a_rule_without_evidence_has_none() -> None:
    shown = {name for run in NAMES for name in fired(run)}
    assert not shown & WITHOUT_EVIDENCE.keys(), "there is evidence now"
    assert WITHOUT_EVIDENCE.keys() <= {rule.name for rule in JUDGED}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_page_nobody_and_open_no_ticket(name: str) -> None:
    loud = {rule.name for rule in RULES if rule.severity is not Severity.INFO}
    assert not fired(name) & loud
