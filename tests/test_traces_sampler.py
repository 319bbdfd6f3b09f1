"""``OTEL_TRACES_SAMPLER`` says how many healthy steps leave a trace, and whether any step does."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_otel import ConfigurationError
from rlhf_otel.exporters.otlp_environment import otlp_destination
from rlhf_otel.settings import load


@pytest.mark.parametrize(
    ("sampler", "argument", "one_in"),
    [
        ("", "", 100),
        ("always_on", "", 1),
        ("parentbased_always_on", "", 1),
        ("traceidratio", "0.25", 4),
        ("parentbased_traceidratio", "0.003", 333),
        ("traceidratio", "", 1),
        ("Always_On", "0.1", 1),
        ("jaeger_remote", "endpoint=x", 100),
    ],
)
def test_healthy_steps_that_are_kept(
    sampler: str, argument: str, one_in: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    assert load().trace_one_in == one_in


def test_what_is_said_to_us_alone_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("trace_one_in: 7\n")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert load(file).trace_one_in == 1, "the environment goes before a file"
    monkeypatch.setenv("RLHF_OTEL_TRACE_ONE_IN", "8")
    assert load(file).trace_one_in == 8
    assert load(file, trace_one_in=9).trace_one_in == 9


@pytest.mark.parametrize("argument", ["-0.1", "1.5", "half", "nan"])
def test_an_impossible_ratio_is_refused(argument: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_SAMPLER_ARG"):
        load()


@pytest.mark.parametrize(
    ("sampler", "argument", "wanted"),
    [
        ("always_off", "", False),
        ("parentbased_always_off", "", False),
        ("traceidratio", "0", False),
        ("traceidratio", "0.1", True),
        ("always_on", "", True),
        ("", "", True),
    ],
)
def test_whether_traces_are_sent_at_all(
    sampler: str, argument: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    assert bool(otlp_destination().endpoint) is wanted
    load()
