"""Rules that are disabled, tuned and added: what may be said, and what is refused with its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.catalogue.rules import (
    RULE_BY_NAME,
    RULES,
    Comparison,
    Condition,
    NonFinite,
    Rule,
    RuleClass,
    Severity,
    Statistic,
)
from rlhf_otel.catalogue.signals import SIGNALS
from rlhf_otel.custom_rules import checked, customized
from rlhf_otel.detection import soundness
from rlhf_otel.detection.rule_text import condition_of, text_of
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.rule_files import load, rules_of

EXAMPLE = Path(__file__).parent.parent / "data" / "rules" / "example.yaml"


def by_name(wanted: Mapping[str, Any]) -> dict[str, Rule]:
    return {rule.name: rule for rule in customized(wanted)}


def refusal(wanted: Any) -> str:
    with pytest.raises(ConfigurationError) as refused:
        customized(wanted)
    return str(refused.value)


def new(**fields: Any) -> dict[str, Any]:
    return {
        "add": {
            "Mine": {"severity": "warning", "summary": "mine", "when": "loss > 5 dimensionless", **fields}
        }
    }


# --- conditions in words


@pytest.mark.parametrize(
    "condition",
    {condition for rule in RULES for condition in rule.conditions},
    ids=str,
)
def test_every_condition_of_the_catalogue_is_written_and_read_back(condition: Condition) -> None:
    assert condition_of(text_of(condition)) == condition


@given(
    st.sampled_from(SIGNALS),
    st.sampled_from(Statistic),
    st.sampled_from("<>"),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_condition_is_read_back(signal: Any, statistic: Statistic, op: Any, threshold: float) -> None:
    condition = Comparison(signal.name, statistic, op, threshold)
    assert condition_of(text_of(condition)) == condition


@pytest.mark.parametrize(
    ("text", "signal", "statistic", "threshold"),
    [
        ("kl_per_token > 0.5 nats", "kl_per_token", Statistic.VALUE, 0.5),
        ("  average  of entropy   < .1nats", "entropy", Statistic.AVERAGE, 0.1),
        ("baseline ratio of entropy < 1e-1 times", "entropy", Statistic.RATIO, 0.1),
        ("zscore of reward < -5 deviations", "reward", Statistic.ZSCORE, -5.0),
        ("truncated_ratio > 30 %", "truncated_ratio", Statistic.VALUE, 0.3),
        ("truncated_ratio > 0.3 ratio", "truncated_ratio", Statistic.VALUE, 0.3),
        ("step_duration > 1500 ms", "step_duration", Statistic.VALUE, 1.5),
        ("step_duration > 2 minutes", "step_duration", Statistic.VALUE, 120.0),
        ("grad_norm > 10 dimensionless", "grad_norm", Statistic.VALUE, 10.0),
        ("grad_norm > 10 1", "grad_norm", Statistic.VALUE, 10.0),
    ],
)
def test_conditions_in_words(text: str, signal: str, statistic: Statistic, threshold: float) -> None:
    found = condition_of(text)
    assert isinstance(found, Comparison)
    assert (found.signal, found.statistic, found.op) == (signal, statistic, ">" if ">" in text else "<")
    assert found.threshold == pytest.approx(threshold)


def test_what_is_not_finite_in_words() -> None:
    assert condition_of("loss or grad_norm is not finite") == NonFinite(("loss", "grad_norm"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kl_per_token > 0.5", "threshold 0.5 without unit; write '0.5 nats'"),
        ("zscore of loss > 6", "without unit; write '6 deviations'"),
        ("grad_norm > 10", "without unit; write '10 dimensionless'"),
        ("kl_per_token > 0.5 bits", "compared in nats, not in 'bits'"),
        ("step_duration > 5 tokens", "compared in seconds, not in 'tokens'"),
        ("zscore of loss > 6 times", "zscore of loss is compared in deviations, not in 'times'"),
        ("kl_per_tokn > 0.5 nats", "unknown signal 'kl_per_tokn'; did you mean kl_per_token?"),
        ("mean of entropy > 0.5 nats", "unknown statistic 'mean'"),
        ("entropy > much", "no finite number"),
        ("entropy > 1e999 nats", "no finite number"),
        ("entropy >= 1 nats", "no finite number"),
        ("entropy is odd", "is no condition"),
        ("", "is no condition"),
    ],
)
def test_what_is_no_condition(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        condition_of(text)
    assert said in str(refused.value)


# --- what is asked for is what is judged


def test_the_example() -> None:
    rules = {rule.name: rule for rule in load(EXAMPLE)}
    assert not {"SlowStep", "KLDrift"} & rules.keys()
    assert len(rules) == len(RULES) - 2 + 1
    runaway = rules["KLRunaway"]
    assert (runaway.severity, runaway.steps) == (Severity.WARNING, 20)
    assert Comparison("kl_per_token", Statistic.AVERAGE, ">", 0.5) in runaway.conditions
    assert Comparison("kl_per_token", Statistic.RATIO, ">", 4.0) in runaway.conditions
    mine = rules["AnswersTooLong"]
    assert (mine.rule_class, mine.steps, mine.alert) == (RuleClass.LEVEL, 10, "RLHFAnswersTooLong")


def test_the_documentation_shows_the_example() -> None:
    page = (EXAMPLE.parents[3] / "docs" / "rules-tuning.md").read_text()
    assert EXAMPLE.read_text() in page


def test_nothing_asked_is_the_catalogue(tmp_path: Path) -> None:
    empty = tmp_path / "rules.yaml"
    empty.write_text("# nothing yet\n")
    assert rules_of(None) == load(empty) == customized({}) == customized({"disable": None}) == RULES


def test_rules_that_are_not_named_stay_as_they_are() -> None:
    rules = by_name({"tune": {"KLRunaway": {"steps": 20}}})
    assert {name for name, rule in rules.items() if rule != RULE_BY_NAME[name]} == {"KLRunaway"}


def test_a_disabled_rule_explains_nothing_away() -> None:
    rules = by_name({"disable": ["NonFinite"]})
    assert not any("NonFinite" in rule.inhibited_by for rule in rules.values())


def test_added_rules_are_event_or_level() -> None:
    assert by_name(new())["Mine"].rule_class is RuleClass.LEVEL
    event = by_name(new(**{"class": "event", "when": ["entropy is not finite"]}))["Mine"]
    assert (event.rule_class, event.steps) == (RuleClass.EVENT, 1)


def test_severity_of_rules_of_prometheus_can_be_tuned() -> None:
    assert by_name({"tune": {"RunStalled": {"severity": "warning"}}})["RunStalled"].severity == "warning"


# --- what is refused


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"disabled": ["SlowStep"]}, "disabled: unknown section"),
        ({"disable": "SlowStep"}, "disable: disable must be a list"),
        ({"tune": ["SlowStep"]}, "tune: tune must be a mapping"),
        ({"disable": ["SlowSteps"]}, "disable[0]: unknown rule 'SlowSteps'; did you mean SlowStep?"),
        ({"disable": ["SlowStep"], "tune": {"SlowStep": {"steps": 2}}}, "SlowStep is disabled and tuned"),
        ({"tune": {"Nope": {"steps": 2}}}, "tune.Nope: unknown rule"),
        ({"tune": {"SlowStep": None}}, "tune.SlowStep: must be a mapping"),
        ({"tune": {"SlowStep": {"step": 2}}}, "tune.SlowStep.step: unknown key 'step'; did you mean steps?"),
        ({"tune": {"SlowStep": {"steps": 0}}}, "tune.SlowStep.steps: must be a whole number"),
        ({"tune": {"SlowStep": {"steps": True}}}, "must be a whole number"),
        ({"tune": {"SlowStep": {"steps": 2.5}}}, "must be a whole number"),
        (
            {"tune": {"SlowStep": {"severity": "page"}}},
            "must be one of critical, warning, info, it is 'page'",
        ),
        ({"tune": {"RunStalled": {"steps": 3}}}, "judged by Prometheus alone"),
        (
            {"tune": {"LossSpike": {"when": "average of loss > 6 dimensionless"}}},
            "tune.LossSpike.when[0]: LossSpike does not compare this. It asks for: zscore of loss > 12.0 deviations",
        ),
        ({"tune": {"LossSpike": {"when": "zscore of loss < 6 deviations"}}}, "does not compare this"),
        ({"tune": {"LossSpike": {"when": "zscore of loss > 6"}}}, "without unit"),
        ({"tune": {"LossSpike": {"when": [6]}}}, "must be a text or a list of texts"),
        ({"tune": {"LossSpike": {"inhibited_by": "Nope"}}}, "unknown rule 'Nope' in inhibited_by"),
        ({"add": {"SlowStep": {"severity": "info"}}}, "is a rule of the catalogue: tune it"),
        ({"add": {"my-rule": {"severity": "info"}}}, "is no name for a rule"),
        ({"add": {"Mine": {"severity": "info", "when": "loss > 1 1"}}}, "add.Mine: a new rule needs summary"),
        (new(when=[]), "a new rule needs when"),
        (new(summary="{{ $labels }}"), "add.Mine.summary: must be a text"),
        (new(**{"class": "outside"}), "a rule of Prometheus alone belongs into a rule file of your own"),
        ({"add": {f"Rule{i}x": new()["add"]["Mine"] for i in range(31)}}, "at most 30"),
    ],
)
def test_refused_with_its_place(wanted: Any, said: str) -> None:
    assert said in refusal(wanted)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"when": "zscore of epoch > 3 deviations"}, "no zscore is kept of epoch"),
        ({"when": "cusum of loss > 40 deviations"}, "no cusum is kept of loss"),
        ({"when": "cusum of entropy < -1000 deviations"}, "cusum stops at 1000"),
        ({"when": "truncated_ratio > 120 %"}, "is a share and never above 1"),
        ({"when": "truncated_ratio > 1 ratio"}, "is a share and never above 1"),
        ({"when": "completion_length < 0 tokens"}, "is never below 0"),
        ({"when": "step_duration < -1 seconds"}, "is never below 0"),
        ({"when": "baseline_ratio of grad_norm < 0 times"}, "is never below 0"),
        ({"when": "entropy < -1 nats"}, "is never below 0"),
        ({"when": "entropy is not finite"}, "only an event rule can see what is not finite"),
        ({"when": "value_ratio of loss > 3 times"}, "only an event rule can compare it"),
        ({"when": "reward_std is not finite", "class": "event"}, "NaN in reward_std is not counted"),
        ({"when": ["loss > 5 1", "loss < 5 1"]}, "can never hold together"),
        ({"inhibited_by": "Mine"}, "explain each other away"),
    ],
)
def test_a_rule_that_can_never_fire_is_refused(fields: Any, said: str) -> None:
    assert f"Mine can never fire: {said}" in refusal(new(**fields)) or said in refusal(new(**fields))


@pytest.mark.parametrize(
    "when",
    [
        "truncated_ratio > 99 %",
        "truncated_ratio < 1 ratio",
        "evaluation_gap > 1.2 ratio",
        "evaluation_gap < -0.5 ratio",
        "completion_length < 1 tokens",
        "loss < -3 dimensionless",
        "cusum of entropy > 900 deviations",
        ["loss > 5 1", "loss < 6 1"],
    ],
)
def test_a_rule_that_can_fire_is_not_refused(when: Any) -> None:
    assert by_name(new(when=when))["Mine"]


def test_rules_that_explain_each_other_away_are_refused() -> None:
    wanted = {"tune": {"KLRunaway": {"inhibited_by": "KLJump"}}}  # which is inhibited by KLRunaway
    assert "explain each other away" in refusal(wanted)


def test_every_rule_of_the_catalogue_can_fire() -> None:
    assert [list(soundness.faults(rule)) for rule in RULES if list(soundness.faults(rule))] == []
    assert list(soundness.cycles(RULES)) == []


def test_all_that_is_wrong_is_told_at_once() -> None:
    said = refusal({"disable": ["Nope"], "tune": {"LossSpike": {"steps": 0}}, **new(when="lss > 1 1")})
    assert len(said.splitlines()) == 3


# --- files


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("disable:\n  - SlowStep\n  - Nope\n", 3, "unknown rule 'Nope'"),
        ("tune:\n  LossSpike:\n    steps: 2\n    when:\n      - zscore of loss > 6\n", 5, "without unit"),
        ("\n\nadd:\n  Mine:\n    severity: info\n", 4, "needs summary"),
        ("add:\n  Mine: {severity: info, summary: x, when: loss > 1 mile}\n", 2, "not in 'mile'"),
        ("tune:\n  LossSpike:\n    severity: info\n    severity: warning\n", 4, "severity is there twice"),
        (
            "add:\n  Mine:\n    severity: info\n    summary: x\n    when: truncated_ratio > 2 ratio\n",
            5,
            "never above 1",
        ),
        ("tune:\n  LossSpike: 7\n", 2, "must be a mapping"),
        ("- SlowStep\n", 1, "must be a mapping with disable, tune, add"),
        ("tune:\n  LossSpike:\n    steps: !!int x\n", 3, ""),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load(path)
    assert f"{path}:{line}: " in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [b"tune: [unclosed", b"tune: \xff\xfe", b"a: &a [*a]", b"a: !!python/object/apply:os.getcwd []"],
)
def test_what_is_no_yaml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rules.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=str(path)):
        load(path)


def test_a_fault_of_the_yaml_itself_has_its_line_too(tmp_path: Path) -> None:
    path = write(tmp_path, "disable: [SlowStep]\ntune:\n  KLRunaway: [1,\n")
    with pytest.raises(ConfigurationError) as refused:
        load(path)
    assert str(refused.value).startswith(f"{path}:4: not YAML: expected")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "absent.yaml")


# --- Python


def test_rules_made_in_python_are_checked_too() -> None:
    mine = by_name(new())["Mine"]
    assert checked([*RULES, mine]) == (*RULES, mine)
    with pytest.raises(ConfigurationError, match="the same name"):
        checked([mine, mine])
    never = Rule(
        "Never", RuleClass.LEVEL, Severity.INFO, "s", "c", "r", "s",
        (Comparison("epoch", Statistic.ZSCORE, ">", 1.0),),
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="Never can never fire"):
        checked([*RULES, never])


# --- signals of different trainers


def test_a_rule_over_signals_that_no_trainer_has_together_is_refused_with_its_line(tmp_path: Path) -> None:
    foreign = ["value_loss > 5 dimensionless", "preference_margin < 0 dimensionless"]
    assert (
        "add.Mine.when: Mine can never fire: no trainer measures all of preference_margin, value_loss"
        in refusal(new(when=foreign, **{"class": "event"}))
    )
    path = tmp_path / "rules.yaml"
    path.write_text(
        "add:\n  Mine:\n    severity: info\n    summary: x\n"
        "    when: [value_loss > 5 dimensionless, preference_margin < 0 dimensionless]\n"
    )
    with pytest.raises(ConfigurationError, match=r"rules\.yaml:5: Mine can never fire: no trainer measures"):
        load(path)


@pytest.mark.parametrize(
    "together",
    [
        ["value_loss > 5 dimensionless", "kl_per_sequence > 5 nats"],
        ["preference_margin < 0 dimensionless", "grad_norm > 5 dimensionless"],
        ["zero_advantage_groups > 90 %", "entropy < 0.1 nats", "host_memory_used > 90 %"],
    ],
)
def test_signals_of_one_trainer_can_be_combined(together: list[str]) -> None:
    assert "Mine" in by_name(new(when=together))
