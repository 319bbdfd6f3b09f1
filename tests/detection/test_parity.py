"""Both engines say the same of real runs: a real Prometheus evaluates the generated expressions over what a scrape
would have read. The benchmark does so with hundreds of runs, this test with a few."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from real_runs import NAMES, records

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
pytest.importorskip("psutil")

import parity
from detection_cases import Case

from rlhf_otel.catalogue.rules import RULE_BY_NAME

INVERTED = "inverted-reward-plain-1"

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not installed"
    ),
]


def case(name: str) -> Case:
    return Case("real runs", name, 1, list(records(name)), faulty=False)


def test_every_copied_run() -> None:
    counts, differing = parity.compare(map(case, NAMES))
    assert not differing
    assert counts["event firing"] > len(NAMES) / 2
    assert counts["level firing"] > len(NAMES)


def test_several_steps_between_scrapes() -> None:
    counts, differing = parity.compare([case(INVERTED)], steps_per_scrape=4)
    assert not differing
    assert counts["level firing"] > 0


def test_another_threshold_in_prometheus_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    expression = parity.EXPRESSIONS["RewardCollapse"]
    assert "< -4" in expression
    changed: dict[str, Any] = {"RewardCollapse": expression.replace("< -4", "< -40")}
    monkeypatch.setattr(parity, "EXPRESSIONS", {**parity.EXPRESSIONS, **changed})
    _, differing = parity.compare([case(INVERTED)])
    assert {each.rule for each in differing} == {"RewardCollapse"}
    assert differing[0].prometheus is None


def test_the_ends_of_an_interval_may_differ_by_one_evaluation() -> None:
    rule = RULE_BY_NAME["RewardCollapse"]
    assert not parity.differences("run", rule, [(3, 9)], [(4, 8)])
    assert len(parity.differences("run", rule, [(3, 9)], [(5, 9)])) == 2
    assert not parity.differences("run", rule, [(3, 3)], [])
    assert len(parity.differences("run", rule, [], [(3, 4)])) == 1
