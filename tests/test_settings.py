"""Settings: where they come from, which source wins, and what each source may not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_otel.errors import ConfigurationError
from rlhf_otel.settings import STANDARD_VARIABLES, Settings, load

Give = Callable[[dict[str, Any]], Settings]
"""Loads settings that one source gives."""


@pytest.fixture(params=["argument", "variable", "file", "file of a variable"])
def give(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Give:
    def from_variable(given: dict[str, Any]) -> Settings:
        for key, value in given.items():
            monkeypatch.setenv(f"RLHF_OTEL_{key.upper()}", str(value))
        return load()

    def write(given: dict[str, Any]) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text("".join(f"{key}: {value}\n" for key, value in given.items()))
        return path

    def from_variables_file(given: dict[str, Any]) -> Settings:
        monkeypatch.setenv("RLHF_OTEL_CONFIG", str(write(given)))
        return load()

    sources: dict[str, Give] = {
        "argument": lambda given: load(**given),
        "variable": from_variable,
        "file": lambda given: load(write(given)),
        "file of a variable": from_variables_file,
    }
    return sources[request.param]


# --- what each source can say


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("run_id", "run-7"),
        ("run_name", "größer"),
        ("team", "alignment"),
        ("owner", "kim"),
        ("cluster", "north"),
        ("file_sd", Path("targets")),
        ("rules", Path(__file__).parent / "data" / "rules" / "example.yaml"),
        ("metrics_host", "0.0.0.0"),
        ("metrics_port", 9500),
        ("metrics_port", "off"),
        ("metrics_web_config", Path(__file__).parent / "data" / "web" / "example.yaml"),
        ("push_interval_s", 15.0),
        ("push_interval_s", "off"),
        ("journal", "off"),
        ("samples", "off"),
        ("device_times", "off"),
        ("checkpoints", "off"),
        ("checkpoints", "on"),
        ("report", "on"),
        ("report", "off"),
        ("trace_one_in", 7),
        ("stall_floor_s", 12.5),
        ("stall_multiple", 2.0),
        ("stall_patience_s", 600.0),
        ("stall_stacks", "off"),
        ("linger_s", 0),
        ("system_interval_s", 1.5),
        ("profile_signal", "SIGUSR1"),
        ("profile_signal", "off"),
        ("guard", "drop"),
        ("guard", "off"),
        ("guard_content", "tokens"),
        ("guard_bundles", 0),
        ("guard_bundle_mib", 0.5),
    ],
)
def test_every_source_can_set(give: Give, key: str, value: Any) -> None:
    assert getattr(give({key: value}), key) == value


def test_every_field_is_covered_by_the_test_above() -> None:
    rows = next(mark for mark in test_every_source_can_set.pytestmark).args[1]  # type: ignore[attr-defined]
    elsewhere = {"actions", "webhook_secret", "metrics_allowed_hosts"}  # tests/actions, tests/protection
    assert {key for key, _ in rows} | elsewhere == set(Settings.model_fields)


def test_journal_is_a_directory(give: Give, tmp_path: Path) -> None:
    assert give({"journal": str(tmp_path)}).journal == tmp_path


def test_without_any_source_the_defaults_hold() -> None:
    assert load() == Settings()
    assert (Settings().metrics_host, Settings().metrics_port) == ("localhost", 9464)


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().team = "other"


# --- which source wins


def test_order_of_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Argument, then RLHF_OTEL_*, then OTEL_*, then file, then default: take one away at a time."""
    file = tmp_path / "settings.yaml"
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "9003")
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", "9002")
    file.write_text("metrics_port: 9004\n")
    assert load(file, metrics_port=9001).metrics_port == 9001
    assert load(file).metrics_port == 9002
    monkeypatch.delenv("RLHF_OTEL_METRICS_PORT")
    assert load(file).metrics_port == 9003
    monkeypatch.delenv("OTEL_EXPORTER_PROMETHEUS_PORT")
    assert load(file).metrics_port == 9004
    file.write_text("")
    assert load(file).metrics_port == 9464


def test_a_variable_of_the_build_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_PURE", "1")
    assert load().metrics_port == 9464


def test_sources_are_merged_field_by_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("team: from-file\nowner: from-file\nrun_name: from-file\n")
    monkeypatch.setenv("RLHF_OTEL_OWNER", "from-variable")
    monkeypatch.setenv("RLHF_OTEL_RUN_NAME", "from-variable")
    loaded = load(file, run_name="from-argument")
    assert (loaded.team, loaded.owner, loaded.run_name) == ("from-file", "from-variable", "from-argument")


@pytest.mark.parametrize(("field", "variable"), STANDARD_VARIABLES.items())
def test_standard_variables(monkeypatch: pytest.MonkeyPatch, field: str, variable: str) -> None:
    monkeypatch.setenv(variable, "12345")
    assert str(getattr(load(), field)) == "12345"


def test_argument_none_means_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_TEAM", "from-variable")
    assert load(team=None).team == "from-variable"


def test_empty_variable_means_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", "")
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_HOST", "")
    assert load() == Settings()


def test_argument_config_wins_over_the_variable_and_both_may_be_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("team: a\n")
    (tmp_path / "b.yaml").write_text("team: b\n")
    monkeypatch.setenv("RLHF_OTEL_CONFIG", str(tmp_path / "b.yaml"))
    assert load(tmp_path / "a.yaml").team == "a"
    assert load().team == "b"


# --- what is refused, from whichever source


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("metrics_port", "many", "'off'"),
        ("metrics_port", -1, "0 to 65535"),
        ("metrics_port", 65536, "0 to 65535"),
        ("trace_one_in", "often", "integer"),
        ("trace_one_in", 0, "greater than or equal to 1"),
        ("stall_floor_s", "soon", "number"),
        ("stall_floor_s", 0, "greater than 0"),
        ("stall_multiple", 1, "greater than 1"),
        ("linger_s", -1, "greater than or equal to 0"),
        ("linger_s", 601, "less than or equal to 600"),
        ("system_interval_s", 0.1, "greater than or equal to 0.5"),
        ("run_id", "x" * 201, "at most 200"),
    ],
)
def test_impossible_value_is_refused_with_key_value_and_what_is_allowed(
    give: Give, key: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        give({key: value})
    message = str(refused.value)
    assert key in message
    assert str(value) in message
    assert allowed in message


def test_unknown_key_is_refused_with_the_known_ones(give: Give) -> None:
    with pytest.raises(ConfigurationError) as refused:
        give({"typo": "7"})
    message = str(refused.value)
    assert "'typo'" in message
    assert all(name in message for name in Settings.model_fields)


def test_a_number_that_is_not_finite_is_refused() -> None:
    for value in (float("nan"), float("inf"), "nan"):
        with pytest.raises(ConfigurationError, match=r"stall_floor_s .* finite"):
            load(stall_floor_s=value)


@pytest.mark.parametrize(
    "key", ["trace_one_in", "stall_floor_s", "metrics_port", "team", "run_id", "journal"]
)
def test_true_is_no_value(key: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{key} .* is True; Input should not be true or false"):
        load(**{key: True})


def test_all_problems_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_LINGER_S", "long")
    monkeypatch.setenv("RLHF_OTEL_TYPO", "1")
    with pytest.raises(ConfigurationError) as refused:
        load(trace_one_in=-1)
    assert [line for line in str(refused.value).splitlines() if "RLHF_OTEL_LINGER_S" in line]
    assert "RLHF_OTEL_TYPO" in str(refused.value)
    assert "trace_one_in (argument) is -1" in str(refused.value)


def test_the_message_names_the_variable_or_file_at_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", "none")
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_PROMETHEUS_PORT"):
        load()
    monkeypatch.delenv("OTEL_EXPORTER_PROMETHEUS_PORT")
    file = tmp_path / "mine.yaml"
    file.write_text("linger_s: -3\n")
    with pytest.raises(ConfigurationError, match=r"file .*mine\.yaml"):
        load(file)


def test_a_wrong_value_that_a_stronger_source_overrides_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_OTEL_LINGER_S", "long")
    assert load(linger_s=3).linger_s == 3


# --- the file


def test_off_need_not_be_quoted_in_yaml(tmp_path: Path) -> None:
    """YAML 1.1 reads a bare ``off`` as false."""
    file = tmp_path / "settings.yaml"
    file.write_text("metrics_port: off\njournal: off\n")
    assert (load(file).metrics_port, load(file).journal) == ("off", "off")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"team: [unclosed", "not YAML"),
        (b"team: \xff\xfe", "not YAML"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"just text", "must be a mapping"),
        (b"1: one\n", "must be a mapping"),
        (b"!!python/object/apply:os.system ['true']", "not YAML"),
        (b"config: other.yaml\n", "unknown setting 'config'"),
    ],
)
def test_a_file_that_is_no_mapping_of_settings_is_refused(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=complaint) as refused:
        load(file)
    assert str(file) in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read") as refused:
            load(path)
        assert str(path) in str(refused.value)


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("# nothing yet\n")
    assert load(file) == Settings()


def test_no_secret_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    hook = {"do": "webhook", "severity": "critical", "url": "https://hooks.example/SECRET", "limit": 0}
    for given in ({"webhook_secret": 7}, {"actions": [hook]}, {"actions": "SECRET"}, {"actions": "[SECRET"}):
        with pytest.raises(ConfigurationError) as refused:
            load(**given)
        assert "SECRET" not in str(refused.value)
    monkeypatch.setenv("RLHF_OTEL_WEBHOOK_SECRT", "SECRET")  # a slip of the pen
    with pytest.raises(ConfigurationError, match="unknown setting 'webhook_secrt'") as refused:
        load()
    assert "SECRET" not in str(refused.value)
