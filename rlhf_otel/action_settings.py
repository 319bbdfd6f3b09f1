"""One entry of the setting ``actions``: which anomalies it answers, and with what."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlhf_otel.catalogue.actions import ActionKind
from rlhf_otel.catalogue.rules import RULE_BY_NAME, RuleClass, Severity

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class ActionSettings(BaseModel):
    """What is done when a rule fires in process. ``rule`` or ``severity`` chooses the anomalies, both narrow."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    do: tuple[ActionKind, ...] = Field(min_length=1)
    rule: str | None = None
    severity: Severity | None = None
    cool_down_s: float = Field(300.0, ge=0)
    """Seconds after an action in which the same rule triggers this entry no more."""
    limit: int = Field(10, ge=1, le=10_000)
    """How often this entry acts in one run."""
    level: Literal["info", "warning", "error", "critical"] = "error"
    url: str | None = None
    timeout_s: float = Field(5.0, gt=0, le=60)
    retries: int = Field(4, ge=0, le=10)
    hosts: tuple[str, ...] = ()
    """Hosts that the webhook may reach by plain HTTP or at an address that is not public."""
    call: Callable[..., Any] | None = None
    steps: int = Field(3, ge=1, le=100)
    """Steps that a profile covers."""

    @field_validator("do", "hosts", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("rule")
    @classmethod
    def _judged_in_process(cls, name: str | None) -> str | None:
        if name is None:
            return None
        rule = RULE_BY_NAME.get(name)  # one that `rules` adds is known when all settings are
        if rule is not None and rule.rule_class is RuleClass.OUTSIDE:
            raise ValueError(f"{name} is judged by Prometheus alone: nothing in the process can answer it")
        return name

    @field_validator("call", mode="before")
    @classmethod
    def _imported(cls, value: Any) -> Any:
        """A function, or ``module:name`` of one."""
        if not isinstance(value, str):
            return value
        module, _, name = value.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"{value!r} is not module:function: {error}") from None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.rule is None and self.severity is None:
            raise ValueError("an action needs a rule or a severity")
        if len(set(self.do)) < len(self.do):
            raise ValueError("the same action twice in one entry")
        if (ActionKind.WEBHOOK in self.do) != (self.url is not None):
            raise ValueError("'webhook' and 'url' go together")
        if (ActionKind.FUNCTION in self.do) != (self.call is not None):
            raise ValueError("'function' and 'call' go together")
        if self.url is not None:
            check_url(self.url, self.hosts)
        return self


def check_url(url: str, hosts: tuple[str, ...]) -> None:
    """Raise ValueError unless a webhook may be sent to ``url``: https, or http to loopback or ``hosts``."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"the webhook's url cannot be read: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the webhook's url must be https://host/path")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the webhook's url must hold no user name: requests are signed instead")
    if any(ord(character) <= 32 or ord(character) >= 127 for character in url):
        raise ValueError("the webhook's url must be ASCII without blanks")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK and parts.hostname not in hosts:
        raise ValueError(
            f"plain http goes to loopback alone; list {parts.hostname!r} under 'hosts' to allow it"
        )
