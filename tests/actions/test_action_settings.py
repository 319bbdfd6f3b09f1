"""The setting ``actions``: what can be said, and what is refused with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf_otel.catalogue.actions import ActionKind
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.settings import load

WEBHOOK = {"severity": "critical", "do": "webhook", "url": "https://hooks.example.org/rlhf"}


def test_a_file_a_variable_and_an_argument_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"rule": "KLRunaway", "do": ["save", "stop"]}, WEBHOOK]
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps({"actions": entries}))
    from_file, from_argument = load(path).actions, load(actions=entries).actions
    monkeypatch.setenv("RLHF_OTEL_ACTIONS", json.dumps(entries))
    assert from_file == from_argument == load().actions
    assert from_file[0].do == (ActionKind.SAVE, ActionKind.STOP)
    assert from_file[1].do == (ActionKind.WEBHOOK,)


def test_a_function_is_given_itself_or_by_name() -> None:
    given, named = (
        load(actions=[{"rule": "NonFinite", "do": "function", "call": call}]).actions[0].call
        for call in (json.dumps, "json:dumps")
    )
    assert given is named is json.dumps


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"do": "log"}, "needs a rule or a severity"),
        ({"rule": "KLRunaway"}, "do"),
        ({"rule": "KLRunaway", "do": []}, "do"),
        ({"rule": "KLRunaway", "do": "explode"}, "explode|log"),
        ({"rule": "KLRunaway", "do": ["stop", "stop"]}, "twice"),
        ({"rule": "KLRunnaway", "do": "log"}, "no such rule: 'KLRunnaway'"),
        ({"rule": "RunGone", "do": "log"}, "judged by Prometheus alone"),
        ({"severity": "dire", "do": "log"}, "severity"),
        ({"severity": "critical", "do": "log", "cooldown": 3}, "cooldown"),
        ({"severity": "critical", "do": "log", "cool_down_s": -1}, "cool_down_s"),
        ({"severity": "critical", "do": "log", "limit": 0}, "limit"),
        ({"severity": "critical", "do": "profile", "steps": 0}, "steps"),
        ({"severity": "critical", "do": "webhook"}, "go together"),
        ({"severity": "critical", "do": "log", "url": "https://a.example"}, "go together"),
        ({"severity": "critical", "do": "function"}, "go together"),
        ({"severity": "critical", "do": "function", "call": "no_such_module:f"}, "not module:function"),
        ({"severity": "critical", "do": "function", "call": "json"}, "not module:function"),
        ({"severity": "critical", "do": "function", "call": 7}, "callable"),
        ({**WEBHOOK, "url": "http://hooks.example.org/"}, "plain http goes to loopback alone"),
        ({**WEBHOOK, "url": "file:///etc/passwd"}, "https://host/path"),
        ({**WEBHOOK, "url": "https:///path"}, "https://host/path"),
        ({**WEBHOOK, "url": "https://me:secret@a.example/"}, "no user name"),
        ({**WEBHOOK, "url": "https://a.example/a b"}, "without blanks"),
        ({**WEBHOOK, "url": "https://a.example/\r\nHost: b"}, "without blanks"),
        ({**WEBHOOK, "url": "https://a.example:99999/"}, "cannot be read"),
        ("log", "actions"),
        (7, "actions"),
    ],
)
def test_what_is_impossible_is_refused_with_its_place(entry: Any, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load(actions=[{"severity": "critical", "do": "log"}, entry])
    assert any(part in str(refused.value) for part in said.split("|"))
    assert "[1]" in str(refused.value)


@pytest.mark.parametrize("text", ["[", "just text", "{}", "7"])
def test_a_variable_that_holds_no_list_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("RLHF_OTEL_ACTIONS", text)
    with pytest.raises(ConfigurationError, match="RLHF_OTEL_ACTIONS"):
        load()


@pytest.mark.parametrize(
    "url", ["http://localhost:9/x", "http://127.0.0.1/x", "http://[::1]:8080/", "https://10.0.0.7/x"]
)
def test_urls_that_may_be_tried(url: str) -> None:
    assert load(actions=[{**WEBHOOK, "url": url}]).actions[0].url == url


def test_a_host_that_is_listed_may_be_reached_without_tls() -> None:
    url = "http://alerts.internal:8000/hook"
    assert load(actions=[{**WEBHOOK, "url": url, "hosts": "alerts.internal"}]).actions[0].url == url


def test_the_secret_is_shown_nowhere() -> None:
    settings = load(webhook_secret="hunter2-hunter2")
    assert "hunter2" not in repr(settings)
    assert settings.webhook_secret is not None
    assert settings.webhook_secret.get_secret_value() == "hunter2-hunter2"
    with pytest.raises(ConfigurationError) as refused:
        load(webhook_secret=["hunter2"])
    assert "hunter2" not in str(refused.value)
