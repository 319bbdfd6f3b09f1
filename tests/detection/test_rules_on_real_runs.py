"""Every rule fires on a real run and is silent on another that has its signals; what no real run can show here says why."""

from __future__ import annotations

import pytest
from real_runs import NAMES, fired, records, signals

from rlhf_otel.catalogue.rules import RULES, Rule, RuleClass, Severity
from rlhf_otel.catalogue.rules_reward_models import REWARD_MODEL_RULES
from rlhf_otel.replay.engine import run

_GPU = "needs a GPU; real runs whose GPU is a stand-in are in tests/integration/test_gpu_memory.py"
_MONITORED = "needs a RewardModelMonitor; real runs with one are in tests/reward_model/test_monitored_run.py"
WITHOUT_EVIDENCE = {
    "GPUMemoryNearLimit": _GPU,
    "GPUMemoryLeak": _GPU,
    **{rule.name: _MONITORED for rule in REWARD_MODEL_RULES},
}
"""These have no recording of a real run."""

ONLY_IN_BREACH = frozenset(
    {
        "kl_unobserved",
        "stale_samples_dropped",
        "reward_function_errors",
        "weight_sync_failures",
        "host_memory_exhaustion",
    }
)
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


@pytest.mark.parametrize(
    ("name", "rule"),
    [("reward-raises", "RewardFunctionFailing"), ("weight-sync-raises", "WeightSyncFailing")],
)
def test_what_ends_a_run_by_raising_is_told_first_and_at_its_last_step(name: str, rule: str) -> None:
    found = run(records(f"{name}-further-1"))
    loud = [(each.rule, each.first_step) for each in found if each.anomaly.severity is not Severity.INFO]
    assert loud == [(rule, records(f"{name}-further-1")[-1].step)]


def test_a_rule_without_evidence_has_none() -> None:
    shown = {name for run in NAMES for name in fired(run)}
    assert not shown & WITHOUT_EVIDENCE.keys(), "there is evidence now"
    assert WITHOUT_EVIDENCE.keys() <= {rule.name for rule in JUDGED}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_runs_page_nobody_and_open_no_ticket(name: str) -> None:
    loud = {rule.name for rule in RULES if rule.severity is not Severity.INFO}
    assert not fired(name) & loud
