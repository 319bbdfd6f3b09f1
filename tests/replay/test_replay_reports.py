"""What people and programs are told of a replay."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlhf_otel.catalogue.rules import RULES, Condition, RuleClass
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.cli import commands
from rlhf_otel.replay.reports import wording


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def write(path: Path, rewards: list[float], **more: Any) -> Path:
    rows = [{"step": i, "loss": 0.01, "reward": reward, **more} for i, reward in enumerate(rewards, 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return write(tmp_path / "healthy.jsonl", [0.5 + 0.01 * (i % 3) for i in range(60)])


@pytest.fixture
def dropped(tmp_path: Path) -> Path:
    """A reward that falls at step 41 and stays down."""
    good = [0.5 + 0.01 * (i % 3) for i in range(40)]
    return write(tmp_path / "dropped.jsonl", [*good, *[-3.0] * 20])


# --- exit codes


@pytest.mark.parametrize("form", ["text", "json", "markdown", "junit"])
def test_exit_codes(healthy: Path, dropped: Path, tmp_path: Path, form: str) -> None:
    assert command("replay", healthy, "--format", form).exit_code == 0
    assert command("replay", dropped, "--format", form).exit_code == 3
    assert command("replay", tmp_path / "absent", "--format", form).exit_code == 1


@pytest.mark.parametrize(("least", "code"), [("info", 3), ("warning", 3), ("critical", 0)])
def test_milder_anomalies_can_pass(tmp_path: Path, least: str, code: int) -> None:
    path = write(tmp_path / "log.jsonl", [0.5, 0.6, 0.5, 0.6], learning_rate=0.0)
    done = command("replay", path, "--fail-on", least)
    assert done.exit_code == code
    assert "WARNING LearningRateZero" in done.stdout
    assert "CRITICAL" not in done.stdout


def test_an_error_is_one_line_for_people(tmp_path: Path) -> None:
    code = "from rlhf_otel.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "replay", str(tmp_path / "absent")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [f"rlhf-otel: {tmp_path / 'absent'} does not exist"]


# --- JSON


def test_json_has_what_the_interface_promises(dropped: Path) -> None:
    said = json.loads(command("replay", dropped, "--format", "json").stdout)
    promised = {
        "rule",
        "severity",
        "signal",
        "first_step",
        "last_step",
        "value",
        "baseline",
        "threshold",
    }
    assert said["anomalies"]
    assert all(promised <= anomaly.keys() for anomaly in said["anomalies"])
    drop = next(anomaly for anomaly in said["anomalies"] if anomaly["rule"] == "RewardDrop")
    assert (drop["severity"], drop["signal"], drop["first_step"], drop["fired_at_step"]) == (
        "warning", "reward", 41, 43,
    )  # fmt: skip
    assert (drop["value"], drop["threshold"]) == (-3.0, -5.0)
    assert drop["baseline"] == pytest.approx(0.51, abs=0.01)
    assert drop["last_step"] >= 43
    assert (said["steps"], said["first_step"], said["last_step"]) == (60, 1, 60)


def test_json_of_a_healthy_run_has_an_empty_list_and_says_what_was_not_judged(healthy: Path) -> None:
    said = json.loads(command("replay", healthy, "--format", "json").stdout)
    assert said["anomalies"] == []
    unjudged = {rule for reason in said["not_judged"] for rule in reason["rules"]}
    assert {"EntropyCollapse", "RunStalled", "SlowStep"} <= unjudged
    assert not {"RewardDrop", "LossSpike"} & unjudged


def test_json_is_strict_even_with_nan(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [0.5, float("nan")])
    text = command("replay", path, "--format", "json").stdout
    said = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert said["anomalies"][0]["value"] == "NaN"


# --- text


def test_text_says_what_broke_since_when_why_and_what_to_do(dropped: Path) -> None:
    text = command("replay", dropped).stdout
    assert "60 logged steps (1 to 60), without times" in text
    assert "WARNING RewardDrop, steps 41 to " in text
    assert "the reward fell at once and stays down" in text
    assert "reward was -3 at step 43, usually 0.5" in text
    flowing = " ".join(text.split())
    assert "reward more than 5 usual deviations below the usual, 3 times in a row" in flowing
    assert f"reward: {SIGNAL_BY_NAME['reward'].help}" in flowing
    assert "a usual deviation is how far single steps scatter about it" in flowing
    assert "to do  See which reward function fell" in text
    assert max(map(len, text.splitlines()[1:])) <= 112


def test_text_of_a_healthy_run_says_what_silence_means(healthy: Path) -> None:
    text = " ".join(command("replay", healthy).stdout.split())
    assert "No anomalies; " in text
    assert f"of {len(RULES)} rules could be judged" in text
    assert "no entropy in the log EntropyCollapse" in text
    assert "the log has no times" in text
    assert "NaN would not have been seen in: grad_norm" in text


def test_sparse_logging_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"step": 10 * i, "loss": 0.5}) + "\n" for i in range(1, 6)))
    assert "logged about every 10 steps" in command("replay", path).stdout


def test_a_log_whose_steps_go_back_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    steps = [1, 2, 3, 2, 3, 1, 2]
    path.write_text("".join(json.dumps({"step": step, "loss": 0.5}) + "\n" for step in steps))
    assert command("replay", path).stdout.count("Steps go back, from 3 to 2") == 1


def test_a_short_log_is_told_that_nothing_relative_was_judged(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [0.5] * 10)
    assert "what is usual is unknown: 10 steps, over 20 needed" in command("replay", path).stdout


def test_a_rule_that_fires_again_is_told_once_with_its_later_steps(tmp_path: Path) -> None:
    nan = float("nan")
    path = write(tmp_path / "log.jsonl", [0.5, nan, *[0.5] * 40, nan, 0.5])
    text = command("replay", path).stdout
    assert text.count("CRITICAL NonFinite") == 1
    assert "again  step 43" in text


@pytest.mark.parametrize(
    "condition",
    [condition for rule in RULES for condition in rule.conditions],
    ids=lambda condition: str(condition)[:60],
)
def test_every_condition_of_the_catalogue_can_be_said(condition: Condition) -> None:
    words = wording._condition(condition)
    assert "{" not in words
    assert words.strip() == words != ""


# --- Markdown and JUnit


def test_markdown_is_a_table(dropped: Path) -> None:
    text = command("replay", dropped, "--format", "markdown").stdout
    rows = [line for line in text.splitlines() if line.startswith("| RewardDrop |")]
    assert len(rows) == 1
    assert "| warning | steps 41 to" in rows[0]
    assert "| what to do |" in text


def test_junit_has_a_case_for_each_rule_that_fails_or_is_skipped(dropped: Path) -> None:
    suite = ElementTree.fromstring(command("replay", dropped, "--format", "junit").stdout)
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    judged = [rule for rule in RULES if rule.rule_class is not RuleClass.OUTSIDE]
    assert len(cases) == len(judged) == int(suite.get("tests", "0"))
    failure = cases["RewardDrop"].find("failure")
    assert failure is not None
    assert failure.get("type") == "warning"
    assert "usually" in (failure.text or "")
    assert cases["EntropyCollapse"].find("skipped") is not None
    assert cases["LossSpike"].find("skipped") is cases["LossSpike"].find("failure") is None
    failures = sum(case.find("failure") is not None for case in cases.values())
    assert failures == int(suite.get("failures", "0"))
