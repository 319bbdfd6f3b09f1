"""Every rule fires on a real run and is silent on another that has its signals; what no real run can show here says why."""

from __future__ import annotations

import pytest
from real_runs import NAMES, fired, signals

from rlhf_otel.catalogue.rules import RULES, Rule, RuleClass, Severity
from rlhf_otel.catalogue.rules_reward_models import REWARD_MODEL_RULES

_GPU = "needs a GPU"
_WORKER = "told by the rollout worker of async GRPO, which this machine can't run and benchmarks replace"
_MONITORED = "needs a RewardModelMonitor; real runs with one are in tests/reward_model/test_monitored_run.py"
_ENDS = "what raises ends the run at once; shown by tests of trainers that go on"
WITHOUT_EVIDENCE = {
    "GPUMemoryNearLimit": _GPU,
    "GPUMemoryLeak": _GPU,
    "HostMemoryGrowth": "needs minutes of growth on a host that is half full",
    "RewardFunctionFailing": _ENDS,
    "WeightSyncFailing": _ENDS,
    "SamplerRetrying": _WORKER,
    "RolloutBackpressure": _WORKER,
    **{rule.name: _MONITORED for rule in REWARD_MODEL_RULES},
}
"""These are tested on synthetic series alone, in test_detector."""

ONLY_IN_BREACH = frozenset({"kl_unobserved", "stale_samples_dropped"})
"""Signals that are there only when something is wrong."""

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
