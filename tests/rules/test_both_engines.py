"""One rule file for both engines: in process, in a replay, and in the files for Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from rlhf_otel.catalogue.rules import RULES
from rlhf_otel.cli import commands
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.rule_files import rules_of
from rlhf_otel.settings import load

sys.path.insert(0, str(Path(__file__).parent.parent))

EXAMPLE = Path(__file__).parent.parent / "data" / "rules" / "example.yaml"

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


# --- settings


def test_a_file_is_read_when_settings_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {rule.name for rule in load(rules=EXAMPLE).rule_set}
    assert "AnswersTooLong" in names
    assert "SlowStep" not in names
    monkeypatch.setenv("RLHF_OTEL_RULES", str(EXAMPLE))
    assert {rule.name for rule in load().rule_set} == names
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("disable:\n  - Nope\n")
    with pytest.raises(ConfigurationError, match=r"wrong\.yaml:2: unknown rule 'Nope'"):
        load(rules=wrong)


def test_the_configuration_file_can_hold_the_rules_and_errors_name_its_lines(tmp_path: Path) -> None:
    config = tmp_path / "rlhf_otel.yaml"
    config.write_text("team: alignment\nrules:\n  disable:\n    - SlowStep\n")
    settings = load(config)
    assert settings.team == "alignment"
    assert len(settings.rule_set) == len(RULES) - 1
    config.write_text("team: alignment\nrules:\n  tune:\n    SlowStep: {steps: none}\n")
    with pytest.raises(ConfigurationError, match=r"rlhf_otel\.yaml:4: must be a whole number"):
        load(config)
    config.write_text(f"rules: {EXAMPLE}\n")
    assert "AnswersTooLong" in {rule.name for rule in load(config).rule_set}


def test_a_mapping_or_a_list_from_python() -> None:
    assert len(load(rules={"disable": ["SlowStep"]}).rule_set) == len(RULES) - 1
    assert load(rules=RULES[:3]).rule_set == RULES[:3]
    with pytest.raises(ConfigurationError, match="unknown rule"):
        load(rules={"disable": ["Nope"]})


def test_an_action_can_answer_an_added_rule_but_none_that_is_not_there(tmp_path: Path) -> None:
    actions = [{"do": "log", "rule": "AnswersTooLong"}]
    assert load(rules=EXAMPLE, actions=actions).actions[0].rule == "AnswersTooLong"
    with pytest.raises(ConfigurationError, match="no such rule: 'AnswersTooLong'"):
        load(actions=actions)
    with pytest.raises(ConfigurationError, match="no such rule: 'SlowStep'"):
        load(rules=EXAMPLE, actions=[{"do": "log", "rule": "SlowStep"}])


# --- replay


@pytest.fixture
def long_answers(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    lengths = [500.0] * 30 + [950.0] * 40
    rows = [{"step": i, "loss": 0.1, "completions/mean_length": n} for i, n in enumerate(lengths, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def fired(result: Result) -> set[str]:
    return {anomaly["rule"] for anomaly in json.loads(result.stdout)["anomalies"]}


def test_replay_judges_by_the_file(long_answers: Path) -> None:
    assert "AnswersTooLong" not in fired(command("replay", long_answers, "--format", "json"))
    with_file = command("replay", long_answers, "--format", "json", "--rules", EXAMPLE)
    assert "AnswersTooLong" in fired(with_file)
    assert with_file.exit_code == 3


# --- in process, on a real run


def test_a_real_run_is_judged_by_the_file_and_exposes_what_its_rules_compare(tmp_path: Path) -> None:
    import tiny

    from rlhf_otel import TelemetryCallback
    from rlhf_otel.exporters.journal import read_journal

    rules: dict[str, Any] = {
        "disable": ["SlowStep", "StepTimeDrift"],
        "tune": {"NonFinite": {"severity": "info"}},
        "add": {
            "Learns": {
                "severity": "info", "summary": "the average learning rate is above nothing", "steps": 2,
                "when": "average of learning_rate > 0 dimensionless",
            },
        },
    }  # fmt: skip
    callback = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal", rules=rules)
    tiny.build_trainer(tmp_path, [callback], max_steps=6).train()
    assert callback.run is not None
    snapshot = callback.run.pipeline.snapshot
    verdicts = {verdict.rule.name: verdict for verdict in snapshot.verdicts}
    assert not {"SlowStep", "StepTimeDrift"} & verdicts.keys()
    assert verdicts["Learns"].active
    assert verdicts["NonFinite"].rule.severity == "info"
    assert ("learning_rate", "average") in snapshot.compared
    told = [record for record in read_journal(tmp_path / "journal") if record["type"] == "anomaly"]
    assert ("Learns", 1, 2) in [(each["rule"], each["first_step"], each["step"]) for each in told]


# --- Prometheus


def alerts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for group in yaml.safe_load((folder / "rlhf.rules.yaml").read_text())["groups"]:
        for alert in group["rules"]:
            found.setdefault(alert["alert"], []).append(alert)
    return found


def test_the_files_for_prometheus_follow_the_rule_file(tmp_path: Path) -> None:
    assert command("generate", "--rules", EXAMPLE, "--out", tmp_path).exit_code == 0
    found = alerts(tmp_path)
    assert not {"RLHFSlowStep", "RLHFKLDrift"} & found.keys()
    (mine,) = found["RLHFAnswersTooLong"]
    assert (
        mine["labels"].items() >= {"severity": "warning", "rule": "AnswersTooLong", "engine": "level"}.items()
    )
    assert re.match(
        r'min_over_time\(rlhf_signal_average{signal="completion_length"}\[\w+\]\) > 900', mine["expr"]
    )
    assert re.search(r'breach_steps{rule="AnswersTooLong"}\[\w+\]\) >= 10', mine["expr"])
    (runaway,) = found["RLHFKLRunaway"]  # a warning has no verdict form
    assert re.search(r'rlhf_signal_average{signal="kl_per_token"}\[\w+\]\) > 0\.5', runaway["expr"])
    assert (tmp_path / "runbooks" / "AnswersTooLong.md").exists()
    inhibitions = yaml.safe_load((tmp_path / "alertmanager.yml").read_text())["inhibit_rules"]
    assert any("RLHFAnswersTooLong" in str(each["target_matchers"]) for each in inhibitions)
    assert "SlowStep" not in str(inhibitions)


def test_generated_files_are_checked_against_the_rule_file(tmp_path: Path) -> None:
    assert command("generate", "--rules", EXAMPLE, "--out", tmp_path).exit_code == 0
    assert command("generate", "--rules", EXAMPLE, "--out", tmp_path, "--check").exit_code == 0
    assert command("generate", "--out", tmp_path, "--check").exit_code == 1


def test_rules_without_a_place_to_write_to_are_refused(tmp_path: Path) -> None:
    done = command("generate", "--rules", EXAMPLE)
    assert done.exit_code == 2
    assert "--rules needs --out" in done.output


CASES = {
    "a bit of everything": (
        "disable: [SlowStep, RunFailed]\n"
        "tune:\n"
        "  RewardCollapse: {severity: warning, steps: 3}\n"
        "  RunStalled: {severity: warning}\n"
        "  EntropyExplosion: {after_step: 100, when: [baseline_ratio of entropy > 3 times]}\n"
        "add:\n"
        "  Critical: {severity: critical, summary: x, when: average of loss > 3 dimensionless}\n"
        "  Event: {severity: warning, class: event, summary: x, when: [value_ratio of loss > 3 times]}\n"
        "  Silent: {severity: info, class: event, summary: x, when: entropy is not finite, inhibited_by: []}\n"
        "  Below: {severity: info, summary: x, when: [shift of reward < -2 deviations, reward < 0 1]}\n"
    ),
    "example": EXAMPLE.read_text(),
    "nothing": "{}",
    "everything critical disabled": "disable: [NonFinite, KLRunaway, RewardCollapse, RunFailed, RunStalled, RunGone]",
}


@needs_promtool
@pytest.mark.servers
@pytest.mark.parametrize("text", CASES.values(), ids=CASES)
def test_promtool_accepts_the_files(tmp_path: Path, text: str) -> None:
    written_for(text, tmp_path)
    promtool(tmp_path, "check", "config", "prometheus.yml")


@needs_promtool
@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.parametrize("name", ["a bit of everything", "everything critical disabled"])
def test_the_generated_tests_pass(tmp_path: Path, name: str) -> None:
    written_for(CASES[name], tmp_path)
    promtool(tmp_path, "test", "rules", "tests/rlhf.rules.test.yaml")


@needs_promtool
@pytest.mark.servers
def test_the_generated_tests_of_what_was_tuned_and_added_pass(tmp_path: Path) -> None:
    written_for(CASES["a bit of everything"], tmp_path)
    changed = {rule.alert for rule in rules_of(tmp_path / "rules.yaml") if rule not in RULES}
    path = tmp_path / "tests" / "rlhf.rules.test.yaml"
    content = yaml.safe_load(path.read_text())
    content["tests"] = [
        test for test in content["tests"] if test["alert_rule_test"][0]["alertname"] in changed
    ]
    tested = {test["alert_rule_test"][0]["alertname"] for test in content["tests"]}
    assert {"RLHFCritical", "RLHFEvent", "RLHFSilent", "RLHFBelow", "RLHFRewardCollapse"} <= tested
    path.write_text(yaml.safe_dump(content))
    promtool(tmp_path, "test", "rules", "tests/rlhf.rules.test.yaml")


def written_for(text: str, folder: Path) -> None:
    (folder / "rules.yaml").write_text(text)
    done = command("generate", "--rules", folder / "rules.yaml", "--out", folder)
    assert done.exit_code == 0, done.output


def promtool(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
