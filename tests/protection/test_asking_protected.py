"""The doctor and the live view ask a protected endpoint as Prometheus would, with ``--http-config``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from web_configurations import HASH, MUTUAL, PASSWORD, TLS, TOKEN, TOKENS, USERS, Serve

from rlhf_otel.cli import commands
from rlhf_otel.cli.top import look_of
from rlhf_otel.doctor.endpoint import protection
from rlhf_otel.doctor.finding import Finding, Level
from rlhf_otel.errors import ConfigurationError, ServerError
from rlhf_otel.servers.http import get
from rlhf_otel.servers.http_client import load
from rlhf_otel.settings import load as settings
from rlhf_otel.top.endpoints import targets_in

BY_PASSWORD = "basic_auth: {username: prometheus, password_file: password}\n"
TRUSTING = "tls_config: {ca_file: ca.crt}\n"


@pytest.fixture
def written(folder: Path) -> Path:
    (folder / "password").write_text(PASSWORD)
    (folder / "token").write_text(TOKEN)
    return folder


def http_config(folder: Path, text: str) -> Path:
    path = folder / "http.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("served", "asked"),
    [
        (TLS, TRUSTING),
        (TLS + USERS, TRUSTING + BY_PASSWORD),
        (TLS + TOKENS, TRUSTING + "authorization: {credentials_file: token}\n"),
        (MUTUAL, "tls_config: {ca_file: ca.crt, cert_file: client.crt, key_file: client.key}\n"),
        (TLS, "tls_config: {insecure_skip_verify: true}\n"),
    ],
)
def test_each_way_to_be_let_in(serve: Serve, written: Path, served: str, asked: str) -> None:
    client = load(http_config(written, asked))
    assert "test_steps" in get(serve(served).url or "", "/metrics", client)


@pytest.mark.parametrize("asked", ["{}", TRUSTING, TRUSTING + "authorization: {credentials: wrong}\n"])
def test_who_is_not_let_in(serve: Serve, written: Path, asked: str) -> None:
    with pytest.raises(ServerError) as refused:
        get(serve(TLS + USERS).url or "", "/metrics", load(http_config(written, asked)))
    assert "wrong" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BY_PASSWORD + "authorization: {credentials: a}", "exclude each other"),
        ("basic_auth: {username: a, password_file: absent}", "cannot be read"),
        ("tls_config: {ca_file: absent.crt}", "cannot be read"),
        ("tls_config: {ca_file: server.key}", "tls_config"),
        ("tls_config: {server_name: a}", "tls_config.server_name: Extra inputs"),
        ("basic_auth: [correct horse", "is not YAML"),
    ],
)
def test_a_client_that_is_refused(written: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(http_config(written, text))
    assert said in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_a_clients_text_shows_no_secret(written: Path) -> None:
    assert PASSWORD not in repr(
        load(http_config(written, f"basic_auth: {{username: a, password: {PASSWORD}}}"))
    )


def test_the_live_view(serve: Serve, written: Path) -> None:
    url = serve(TLS + USERS).url or ""
    client = load(http_config(written, TRUSTING + BY_PASSWORD))
    assert [picture.state for picture in look_of(url)()] == ["no answer"]
    assert look_of(url, client)() == [], "it answers, though with no run of ours"


def test_the_live_view_finds_the_scheme_in_file_sd(tmp_path: Path) -> None:
    groups = [
        {"targets": ["a:1"], "labels": {"__scheme__": "https"}},
        {"targets": ["b:1"], "labels": {}},
        {"targets": ["c:1"]},
    ]
    (tmp_path / "targets.json").write_text(json.dumps(groups))
    (tmp_path / "odd.json").write_text('[1, {"targets": 7}, {"targets": [], "labels": []}]')
    assert targets_in(tmp_path) == ["https://a:1", "http://b:1", "http://c:1"]


def port_finding(*arguments: str) -> Finding:
    done = CliRunner().invoke(commands, ["doctor", "--json", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found = {each["check"]: each for each in json.loads(done.stdout)["findings"]}["port"]
    return Finding(**{**found, "level": Level(found["level"])})


def test_the_doctor(serve: Serve, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = serve(TLS + USERS)
    monkeypatch.setenv("RLHF_OTEL_METRICS_PORT", str(endpoint.port))
    monkeypatch.setenv("RLHF_OTEL_METRICS_WEB_CONFIG", str(written / "web.yaml"))
    found = port_finding()
    assert (found.level, "--http-config" in found.remedy) == (Level.WARNING, True)
    found = port_finding("--http-config", str(http_config(written, TRUSTING + BY_PASSWORD)))
    assert "taken by another program" in found.said, "it was let in, and this endpoint shows no run"


@pytest.mark.parametrize(
    ("text", "host", "level", "said"),
    [
        ("", "localhost", Level.OK, "loopback alone"),
        ("", "0.0.0.0", Level.WARNING, "whoever reaches 0.0.0.0 reads the metrics"),
        (USERS, "0.0.0.0", Level.WARNING, "clear text"),
        (USERS, "localhost", Level.OK, "passwords"),
        (MUTUAL + USERS + TOKENS, "0.0.0.0", Level.OK, "TLS, client certificates, passwords, tokens"),
        (TLS.replace("server.", "expired."), "0.0.0.0", Level.PROBLEM, "expired"),
    ],
)
def test_what_the_doctor_says_of_protection(
    folder: Path, text: str, host: str, level: Level, said: str
) -> None:
    path = folder / "web.yaml"
    path.write_text(text)
    found = protection(settings(metrics_web_config=path, metrics_host=host))
    assert found.level == level
    assert said in found.said
    assert HASH not in str(found)
