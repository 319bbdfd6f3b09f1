"""The generated files are up to date, and Prometheus and Alertmanager accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rlhf_otel import generate
from rlhf_otel.catalogue.impacts import IMPACT
from rlhf_otel.catalogue.metrics import METRIC_BY_NAME
from rlhf_otel.catalogue.recorded import RECORDED_BY_NAME
from rlhf_otel.catalogue.rules import MAX_CRITICAL_RULES, RULES, Rule, Severity
from rlhf_otel.cli import commands
from rlhf_otel.detection.promql import Timing
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.generate import alertmanager, prometheus, rules, runbooks

ROOT = Path(__file__).parent.parent.parent
RULES_FILE = ROOT / "alerts/rlhf.rules.yaml"
TESTS_FILE = ROOT / "alerts/tests/rlhf.rules.test.yaml"
RECORDING_FILE = ROOT / "alerts/rlhf.recording.yaml"
RECORDING_TESTS_FILE = ROOT / "alerts/tests/rlhf.recording.test.yaml"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
needs_amtool = pytest.mark.skipif(shutil.which("amtool") is None, reason="amtool is not installed")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_generated_files_are_up_to_date() -> None:
    assert generate.stale(ROOT) == [], "run `rlhf-otel generate` and commit what it writes"


@pytest.mark.parametrize("arguments", [(), ("--check",), ("--root", "elsewhere")])
def test_a_directory_that_is_no_repository_gets_nothing(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(commands, ["generate", *arguments])
    assert isinstance(done.exception, ConfigurationError)
    assert "--out DIR" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_repository_and_a_directory_of_ones_own_get_theirs(tmp_path: Path) -> None:
    (tmp_path / "repository/rlhf_otel/catalogue").mkdir(parents=True)
    for option, folder, written in (
        ("--root", "repository", "alerts/rlhf.rules.yaml"),
        ("--out", "own", "rlhf.rules.yaml"),
    ):
        done = CliRunner().invoke(commands, ["generate", option, str(tmp_path / folder)])
        assert done.exit_code == 0, done.output
        assert (tmp_path / folder / written).is_file()


@needs_promtool
@pytest.mark.servers
def test_promtool_accepts_rules_and_configuration() -> None:
    for command in (("check", "rules", RULES_FILE), ("check", "config", ROOT / "deploy/prometheus.yml")):
        done = run("promtool", *command)
        assert done.returncode == 0, done.stdout + done.stderr


def resources() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "alerts/rlhf.prometheusrule.yaml").read_text(encoding="utf-8")))


def test_the_operator_s_resources_hold_the_same_groups() -> None:
    groups = [group for resource in resources() for group in resource["spec"]["groups"]]
    recorded = RULES_FILE.with_name("rlhf.recording.yaml")
    files = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (RULES_FILE, recorded)]
    assert groups == [group for file in files for group in file["groups"]]


def test_each_resource_fits_into_the_annotation_that_kubectl_apply_keeps() -> None:
    for resource in resources():
        assert len(json.dumps(resource)) < 250 * 2**10, resource["metadata"]["name"]


def test_links_and_selector_are_options(tmp_path: Path) -> None:
    options = {
        "--runbook-base": "https://wiki/", "--board-base": "", "--trace-url": "https://jaeger/{trace_id}",
        "--selector": 'cluster="a"',
    }  # fmt: skip
    command = ["generate", "--out", str(tmp_path), *(word for option in options.items() for word in option)]
    done = CliRunner().invoke(commands, command)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "rlhf.rules.yaml").read_text(encoding="utf-8")
    assert "runbook_url: https://wiki/NonFinite.md" in text
    assert "board_url" not in text
    assert "https://jaeger/{{ . }}" in text
    assert 'rlhf_anomaly_active{rule="NonFinite",cluster="a"} == 1' in text
    recorded = (tmp_path / "rlhf.recording.yaml").read_text(encoding="utf-8")
    assert recorded.count('cluster="a"') >= recorded.count("record:")
    done = CliRunner().invoke(commands, ["generate", "--out", str(tmp_path), "--trace-url", "https://jaeger"])
    assert done.exit_code == 2
    assert "{trace_id}" in done.output
    assert CliRunner().invoke(commands, ["generate", "--selector", "a='b'"]).exit_code == 2


@needs_promtool
@pytest.mark.servers
def test_every_alert_fires_and_stays_silent_where_it_must() -> None:
    done = run("promtool", "test", "rules", TESTS_FILE)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.servers
def test_what_is_recorded_is_what_can_be_said_by_hand() -> None:
    done = run("promtool", "test", "rules", RECORDING_TESTS_FILE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_recording_rule_has_a_test() -> None:
    tests = yaml.safe_load(RECORDING_TESTS_FILE.read_text(encoding="utf-8"))["tests"]
    asked = " ".join(case["expr"] for test in tests for case in test["promql_expr_test"])
    assert not [name for name in RECORDED_BY_NAME if name not in asked]


@needs_promtool
@pytest.mark.servers
@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('{scope="local"}', ""),
        (">= max by", "< max by"),
        ("count by (job, run_id)", "count by (job)"),
        (") + 6", ") + 5"),
    ],
)
def test_a_broken_recording_rule_fails_its_test(tmp_path: Path, was: str, becomes: str) -> None:
    text = RECORDING_FILE.read_text(encoding="utf-8")
    assert was in text
    (tmp_path / "tests").mkdir()
    (tmp_path / RECORDING_FILE.name).write_text(text.replace(was, becomes), encoding="utf-8")
    copy = tmp_path / "tests" / RECORDING_TESTS_FILE.name
    shutil.copy(RECORDING_TESTS_FILE, copy)
    assert run("promtool", "test", "rules", copy).returncode != 0


@needs_promtool
@pytest.mark.servers
@pytest.mark.parametrize(
    ("alert", "was", "becomes"),
    [
        (
            "RLHFLossSpike",
            'rlhf_anomaly_active{rule="LossSpike"} == 1',
            'rlhf_anomaly_active{rule="LossSpike"} == 2',
        ),
        ("RLHFTruncationHigh", "min_over_time(rlhf_signal_average", "max_over_time(rlhf_signal_average"),
        ("RLHFRunStalled", "rlhf_stall_threshold_seconds[2h]", "rlhf_stall_threshold_seconds[1m]"),
    ],
)
def test_a_broken_rule_fails_its_test(tmp_path: Path, alert: str, was: str, becomes: str) -> None:
    text = RULES_FILE.read_text(encoding="utf-8")
    assert was in text
    (tmp_path / "tests").mkdir()
    (tmp_path / "rlhf.rules.yaml").write_text(text.replace(was, becomes), encoding="utf-8")
    copy = tmp_path / "tests" / TESTS_FILE.name
    tests = yaml.safe_load(TESTS_FILE.read_text(encoding="utf-8"))
    tests["tests"] = [test for test in tests["tests"] if test["alert_rule_test"][0]["alertname"] == alert]
    assert tests["tests"]
    copy.write_text(yaml.safe_dump(tests), encoding="utf-8")
    failed = run("promtool", "test", "rules", copy)
    assert failed.returncode != 0
    assert "FAILED" in failed.stdout + failed.stderr


@needs_amtool
@pytest.mark.servers
def test_amtool_accepts_the_configuration() -> None:
    done = run("amtool", "check-config", ROOT / "deploy/alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@needs_amtool
@pytest.mark.servers
def test_the_demo_s_one_second_variants_are_accepted(tmp_path: Path) -> None:
    timing = Timing(scrape_s=1)
    (tmp_path / "rules.yaml").write_text(rules.rules_file(timing), encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(prometheus.config_file(timing, ["rules.yaml"]), encoding="utf-8")
    (tmp_path / "alertmanager.yml").write_text(alertmanager.config_file(timing), encoding="utf-8")
    assert run("promtool", "check", "config", "prometheus.yml", cwd=tmp_path).returncode == 0
    assert run("amtool", "check-config", "alertmanager.yml", cwd=tmp_path).returncode == 0


def test_every_rule_has_an_alert_a_runbook_and_a_test_from_both_sides() -> None:
    alerts = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
    tests = yaml.safe_load(TESTS_FILE.read_text())["tests"]
    for rule in RULES:
        mine = [alert for alert in alerts if alert["alert"] == rule.alert]
        assert mine, rule.name
        for alert in mine:
            assert alert["labels"]["severity"] == rule.severity or rule.name == "Drill"
            assert {"summary", "description", "runbook_url"} <= alert["annotations"].keys()
            assert (ROOT / alert["annotations"]["runbook_url"]).exists()
        cases = [case for case in tests if case["alert_rule_test"][0]["alertname"] == rule.alert]
        assert any(case["alert_rule_test"][0]["exp_alerts"] for case in cases), f"{rule.name} never fires"
        if rule.name == "Watchdog":
            continue
        runs = {
            match[1]
            for case in cases
            for series in case["input_series"]
            if (match := re.search(r'run_id="([^"]+)"', series["series"]))
        }
        firing = {
            a["exp_labels"]["run_id"] for case in cases for a in case["alert_rule_test"][0]["exp_alerts"]
        }
        assert runs - firing, f"{rule.name} has no silent run"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_runbook_says_all_that_is_needed_at_night(rule: Rule) -> None:
    text = (ROOT / f"docs/runbooks/{rule.name}.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (\w+)\n\n(.+?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(sections) == ["Meaning", "Impact", "Diagnosis", "Mitigation", "Expression"]
    assert sections["Impact"].strip()
    assert "```promql" in sections["Diagnosis"] or rule.name in ("Watchdog", "Drill")
    assert rule.remedy in sections["Mitigation"]


@needs_promtool
@pytest.mark.servers
def test_the_queries_of_the_runbooks_are_promql(tmp_path: Path) -> None:
    queries = [
        line
        for rule in RULES
        for block in re.findall(r"```promql\n(.+?)\n```", runbooks.runbooks((rule,))[rule.name], re.DOTALL)[
            :1
        ]
        for line in block.splitlines()
        if rule.name not in ("Watchdog", "Drill")
    ]
    named = set(re.findall(r"rlhf_\w+", " ".join(queries)))
    assert named <= METRIC_BY_NAME.keys()
    rules_ = [{"record": f"q{number}", "expr": query} for number, query in enumerate(dict.fromkeys(queries))]
    (tmp_path / "q.yaml").write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rules_}]}))
    done = run("promtool", "check", "rules", "q.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_impact_is_of_a_rule_that_is_gone() -> None:
    assert IMPACT.keys() <= {rule.name for rule in RULES}


def test_few_rules_page() -> None:
    assert sum(rule.severity is Severity.CRITICAL for rule in RULES) <= MAX_CRITICAL_RULES


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *(ROOT / "docs").rglob("*.md"),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_the_docs_leads_somewhere(page: Path) -> None:
    """To a file, and where it names one to a heading of it."""
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
