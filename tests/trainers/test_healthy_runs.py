"""Healthy runs over all trainers, long enough for baselines and rules: none of them pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_experimental
import tiny_pipelines
import tiny_trainers
from environments import TEST_TIMEOUT_S, train
from other_versions import AT_0_29, AT_1_12

from rlhf_otel import faults
from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.catalogue.rules import RULE_BY_NAME, Severity
from rlhf_otel.exporters.journal import read_journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_TIMEOUT_S)]

STEPS = 60
HEALTHY: dict[str, Any] = {"max_steps": STEPS, "learning_rate": 3e-4, "logging_steps": 10}
BUILDERS = {**tiny_trainers.MAIN, **tiny_pipelines.PIPELINES, **tiny_experimental.EXPERIMENTAL}
PPO_STEPS: dict[str, Any] = {"max_steps": 30, "gradient_accumulation_steps": 2}
"""It collects garbage twice a step, which takes longer than the step."""
BREAKING = {"grpowithreplaybuffer"}
"""TRL compares tensors where two scores in its buffer tie, and raises sooner or later."""
OLDER: dict[str, dict[str, dict[str, Any]]] = {
    "ppo": {**dict.fromkeys(AT_1_12.keys() - BREAKING, HEALTHY), "ppo": {**HEALTHY, **PPO_STEPS}},
    "trl029": {**dict.fromkeys(AT_0_29.keys() - BREAKING, HEALTHY), "ppo": {**HEALTHY, **PPO_STEPS}},
}
"""Environment to its trainers, all that last."""


def pages(folder: Path) -> list[str]:
    """Rules that paged, from the journal."""
    fired = (record["rule"] for record in read_journal(folder / "journal") if record["type"] == "anomaly")
    return [rule for rule in fired if RULE_BY_NAME[rule].severity is Severity.CRITICAL]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_healthy_run_does_not_page(name: str, tmp_path: Path) -> None:
    observer = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal")
    BUILDERS[name](tmp_path, [observer], **HEALTHY).train()

    assert observer.run is not None
    assert observer.run.pipeline.snapshot.step == STEPS
    assert not pages(tmp_path)
    assert faults.total() == 0, faults.counts()


@pytest.mark.parametrize("environment", sorted(OLDER))
def test_healthy_runs_of_other_versions_do_not_page(environment: str, tmp_path: Path) -> None:
    seen = train(environment, tmp_path, OLDER[environment])

    for name in OLDER[environment]:
        assert "error" not in seen[name], seen[name]["error"]
        assert not pages(tmp_path / name), name
        assert seen[name]["faults"] == 0
