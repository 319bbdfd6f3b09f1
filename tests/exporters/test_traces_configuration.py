"""What OpenTelemetry's standard variables make of the trace exporter, and what of them is refused."""

from __future__ import annotations

import subprocess
import sys

import otlp_receiver
import pytest
from exporting import ENDPOINT, IDENTITY, export_two_steps, exporter

from rlhf_otel.errors import ConfigurationError
from rlhf_otel.exporters.traces import TraceExporter


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {ENDPOINT: ""},
        {ENDPOINT: "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"},
        {ENDPOINT: "http://localhost:4318", "OTEL_TRACES_EXPORTER": "console"},
        {ENDPOINT: "http://localhost:4318", "OTEL_SDK_DISABLED": "True"},
        {
            ENDPOINT: "http://localhost:4318",
            "OTEL_SDK_DISABLED": "true",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke",
        },
    ],
)
def test_off(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for key, value in variables.items():
        monkeypatch.setenv(key, value)
    assert TraceExporter.from_environment(IDENTITY) is None


def test_another_exporter_than_otlp_is_not_silently_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://localhost:4318")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    TraceExporter.from_environment(IDENTITY)
    assert "OTEL_TRACES_EXPORTER='console'" in caplog.text


def test_without_an_endpoint_the_sdk_is_not_imported() -> None:
    program = (
        "import os, sys; [os.environ.pop(key) for key in list(os.environ) if key.startswith('OTEL_')];"
        "from rlhf_otel.exporters.traces import TraceExporter; from rlhf_otel.records import RunIdentity;"
        "assert TraceExporter.from_environment(RunIdentity('r')) is None;"
        "print([name for name in sys.modules if name.split('.')[0] in ('opentelemetry', 'grpc', 'requests')])"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "http/protobuf, grpc"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "smoke", "http/protobuf, grpc"),
        (ENDPOINT, "localhost:4318", "http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "http://HOST:PORT"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[host", "Invalid IPv6 URL"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "integer above 0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "integer above 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "seconds above 0"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "seconds above 0"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip", "none, gzip, deflate"),
    ],
)
def test_impossible_settings_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://localhost:4318")
    monkeypatch.setenv(key, value)
    with pytest.raises(ConfigurationError) as refused:
        TraceExporter.from_environment(IDENTITY)
    assert f"{key}={value!r}" in str(refused.value)
    assert allowed in str(refused.value)


def test_what_the_sdk_refuses_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="max_export_batch_size"):
        exporter(monkeypatch, "http://localhost:4317", OTEL_BSP_MAX_QUEUE_SIZE="7")


def test_the_specific_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver.http_receiver() as right, otlp_receiver.http_receiver() as wrong:
        specific = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{right.endpoint}/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        }
        export_two_steps(exporter(monkeypatch, wrong.endpoint, "grpc", **specific))
        assert (len(right.spans), len(wrong.spans)) == (7, 0)


def test_service_name_and_resource_attributes_are_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    with otlp_receiver.http_receiver() as receiver:
        variables = {"OTEL_SERVICE_NAME": "alignment", "OTEL_RESOURCE_ATTRIBUTES": "team=post-training"}
        export_two_steps(exporter(monkeypatch, receiver.endpoint, **variables))
        resource = receiver.spans[0].resource
        assert (resource["service.name"], resource["team"]) == ("alignment", "post-training")
        assert resource["rl.run.id"] == "run-7"
