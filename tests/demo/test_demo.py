"""The demo itself: real training, real servers, a real fault, the page at its receiver; and silence without one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from rlhf_otel.catalogue.rules import RULE_BY_NAME, RuleClass, Severity
from rlhf_otel.demo.faults import FAULTS, default_step, read_record
from rlhf_otel.demo.orchestrate import Options, run_demo
from rlhf_otel.detection.promql import Timing, compile_rule

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        shutil.which("prometheus") is None
        or (shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")) is None,
        reason="prometheus and alertmanager are not installed",
    ),
]


def options(run_dir: Path, fault: str, steps: int, svg: Path | None = None) -> Options:
    expected = frozenset(FAULTS[fault].caught_by)
    return Options(run_dir, fault, steps, default_step(steps), 0, False, svg, expected)


def test_a_fault_is_caught_by_both_engines_and_paged_once(tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    picture = tmp_path / "demo.svg"
    evidence = run_demo(options(tmp_path, "nan-reward", 150, picture), console)

    assert evidence.injected_step is not None
    assert evidence.injected_s is not None
    first = evidence.anomalies[0]
    assert (first["rule"], first["signal"], first["first_step"]) == (
        "NonFinite",
        "reward",
        evidence.injected_step,
    )
    assert "correctness" in first["detail"]
    assert {("NonFinite", "verdict"), ("NonFinite", "level")} <= evidence.alerts.keys()
    # One scrape and one evaluation of a second each, and the receiver three later; with room for a busy machine.
    assert evidence.alerts["NonFinite", "verdict"] - evidence.injected_s < 6
    page = evidence.pages[0]
    assert page.time_s - evidence.injected_s < 12
    assert {alert["labels"]["rule"] for alert in page.firing} == {"NonFinite"}
    assert "since step" in page.firing[0]["annotations"]["observed"]
    assert len(evidence.pages) == 1, "two replicas, one page"

    anomalous = [span for span in evidence.spans if span["name"] == "rlhf.step" and span["events"]]
    assert anomalous[0]["trace_id"] == page.firing[0]["annotations"]["trace_id"]
    printed = console.export_text()
    assert "NonFinite" in printed
    assert "Page as it was first delivered" in printed
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_a_healthy_run_is_silent_through_two_replicas(tmp_path: Path) -> None:
    evidence = run_demo(options(tmp_path, "none", 150), Console(record=True, width=120))
    assert evidence.end is not None
    assert evidence.end["outcome"] == "finished"
    assert not [a for a in evidence.anomalies if a["severity"] != "info"]
    assert evidence.pages == []
    assert evidence.tickets == []
    assert any(note.receiver == "watchdog" for note in evidence.notifications)


def forms(rule: str) -> set[tuple[str, str]]:
    """Every alert that Prometheus has for the rule: both engines' where the rule has both forms."""
    return {(rule, form.engine) for form in compile_rule(RULE_BY_NAME[rule], Timing(scrape_s=1))}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in ("none", "nan-reward")])
def test_every_fault_is_caught_in_every_form_by_the_rules_that_it_names_and_paged(
    tmp_path: Path, fault: str
) -> None:
    evidence = run_demo(options(tmp_path, fault, 120), Console(record=True, width=120))
    fired = set(evidence.rules())
    for rule in FAULTS[fault].caught_by:
        assert forms(rule) <= evidence.alerts.keys()
        if RULE_BY_NAME[rule].rule_class is not RuleClass.OUTSIDE:
            assert rule in {anomaly["rule"] for anomaly in evidence.anomalies}
        assert not fired.intersection(RULE_BY_NAME[rule].inhibited_by), f"{rule} is explained away"

    critical = {rule for rule in FAULTS[fault].caught_by if RULE_BY_NAME[rule].severity is Severity.CRITICAL}
    paged = {alert["labels"]["rule"] for page in evidence.pages for alert in page.firing}
    assert bool(paged & critical) == bool(critical), paged


def test_the_command_explains_its_faults_and_refuses_others() -> None:
    command = [sys.executable, "-c", "from rlhf_otel.cli import main; main()", "demo"]
    listed = subprocess.run([*command, "--list-faults"], capture_output=True, text=True, check=True).stdout
    assert all(name in listed for name in FAULTS)
    refused = subprocess.run([*command, "--fault", "nope"], capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "learning-rate" in refused.stderr


def test_a_crash_is_told_with_the_step_of_its_fault(tmp_path: Path) -> None:
    evidence = run_demo(options(tmp_path, "crash", 40), Console(record=True, width=120))
    record = read_record(tmp_path)
    assert record is not None
    assert record.step == evidence.injected_step == default_step(40)
    assert evidence.end is not None
    assert evidence.end["outcome"] == "failed"
    assert ("RunFailed", "prometheus") in evidence.alerts
