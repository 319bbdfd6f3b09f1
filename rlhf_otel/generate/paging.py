"""Who is told: the file that ``rlhf-otel generate --paging`` reads, and Alertmanager's receivers from it.

::

    secrets: /etc/alertmanager/secrets       # directory; no secret stands in the configuration
    smtp: {smarthost: "mail:587", from: alerts@example.org, username: alerts}
    default:
      page: [{pagerduty: on-call}]           # the file SECRETS/on-call holds the routing key
      ticket: [{slack: "#rlhf"}]             # the file SECRETS/slack-url holds the webhook's address
    teams:
      alignment:
        page: [{pagerduty: alignment}, {email: oncall@example.org}]
        ticket: [{webhook: "http://tickets:8080/rlhf", token: tickets}]   # SECRETS/tickets: a bearer token
    watchdog: [{webhook: "https://dead-man/uuid"}]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlhf_otel.errors import ConfigurationError

SLACK_FILE: Final = "slack-url"
SMTP_FILE: Final = "smtp-password"
TITLE: Final = '{{ template "rlhf.title" . }}'
TEXT: Final = '{{ template "rlhf.text" . }}'
SLACK_TITLE: Final = '{{ template "rlhf.slack_title" . }}'
SLACK_TEXT: Final = '{{ template "rlhf.slack" . }}'
KINDS: Final = ("slack", "pagerduty", "email", "webhook")
LOCAL: Final = "http://localhost:9099"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Channel(_Strict):
    """One way to tell somebody: exactly one of Slack, PagerDuty, e-mail and webhook."""

    slack: str | None = Field(None, description="A channel.")
    pagerduty: str | None = Field(None, pattern=r"^[\w.-]+$", description="File of the routing key.")
    email: str | None = Field(None, description="An address.")
    webhook: str | None = Field(None, pattern="^https?://", description="An address.")
    token: str | None = Field(None, pattern=r"^[\w.-]+$", description="File of a webhook's bearer token.")

    @model_validator(mode="after")
    def _one_kind(self) -> Channel:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)} is needed, found {len(given)}")
        if self.token is not None and self.webhook is None:
            raise ValueError("token belongs to a webhook")
        return self


class Audience(_Strict):
    """Who is woken up, and who finds it in the morning."""

    page: tuple[Channel, ...] = ()
    ticket: tuple[Channel, ...] = ()


class Smtp(_Strict):
    """The server that e-mails go through."""

    smarthost: str
    sender: str = Field(alias="from")
    username: str | None = None
    require_tls: bool = True


class Paging(_Strict):
    """The whole file."""

    secrets: str = "/etc/alertmanager/secrets"
    default: Audience
    teams: dict[str, Audience] = {}
    watchdog: tuple[Channel, ...] = ()
    smtp: Smtp | None = None
    pagerduty_url: str | None = None

    @model_validator(mode="after")
    def _mail_needs_a_server(self) -> Paging:
        if self.smtp is None and any(channel.email for channel in self._channels()):
            raise ValueError("an e-mail needs smtp: {smarthost: HOST:PORT, from: ADDRESS}")
        return self

    def secret_files(self) -> list[str]:
        """Paths of all files that Alertmanager will read a secret from."""
        names = {SLACK_FILE} if any(channel.slack for channel in self._channels()) else set()
        for channel in self._channels():
            names |= {name for name in (channel.pagerduty, channel.token) if name}
        if self.smtp is not None and self.smtp.username is not None:
            names.add(SMTP_FILE)
        return sorted(f"{self.secrets}/{name}" for name in names)

    def require_secrets(self) -> None:
        """Raises ConfigurationError where a page would not arrive since a file is missing on this machine."""
        missing = [path for path in self.secret_files() if not Path(path).is_file()]
        if missing:
            raise ConfigurationError(
                f"no page would arrive: {', '.join(missing)} is missing (docs/paging.md)"
            )

    def _channels(self) -> Iterator[Channel]:
        for audience in (self.default, *self.teams.values()):
            yield from (*audience.page, *audience.ticket)
        yield from self.watchdog


def local(receiver_url: str = LOCAL) -> Paging:
    """Everything by webhook, to ``receiver_url`` below /page, /ticket and /watchdog."""
    return Paging.model_validate(
        {
            "default": {kind: [{"webhook": f"{receiver_url}/{kind}"}] for kind in ("page", "ticket")},
            "watchdog": [{"webhook": f"{receiver_url}/watchdog"}],
        }
    )


NOBODY_IS_TOLD: Final = Paging(default=Audience())
"""Alerts are in Alertmanager's own page alone."""

EXAMPLE: Final = Paging.model_validate(
    {
        "smtp": {"smarthost": "mail.example.org:587", "from": "alerts@example.org", "username": "alerts"},
        "default": {"page": [{"pagerduty": "on-call"}], "ticket": [{"slack": "#rlhf"}]},
        "teams": {
            "alignment": {
                "page": [{"pagerduty": "alignment"}, {"email": "alignment-oncall@example.org"}],
                "ticket": [{"webhook": "https://tickets.example.org/rlhf", "token": "tickets"}],
            }
        },
        "watchdog": [{"webhook": "https://dead-man.example.org/rlhf", "token": "dead-man"}],
    }
)
"""Every kind of channel, as ``deploy/alertmanager-teams.yml`` shows it."""


def load(path: Path) -> Paging:
    """The file at ``path``. Raises ConfigurationError."""
    try:
        found = Paging.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        told = "\n".join(
            f"{path}: {'.'.join(map(str, problem['loc'])) or 'file'}: {problem['msg']}"
            for problem in error.errors()
        )
        raise ConfigurationError(told) from None
    _require_somebody(path, found)
    return found


def _require_somebody(path: Path, found: Paging) -> None:
    audiences = {"default": found.default, **{f"teams.{name}": each for name, each in found.teams.items()}}
    for name, audience in audiences.items():
        if not audience.page:
            raise ConfigurationError(f"{path}: {name}.page is empty: a critical alert would wake nobody up")


def settings(paging: Paging) -> dict[str, Any]:
    """Alertmanager's global settings."""
    found: dict[str, Any] = {}
    if paging.pagerduty_url is not None:
        found["pagerduty_url"] = paging.pagerduty_url
    if paging.smtp is not None:
        found["smtp_smarthost"] = paging.smtp.smarthost
        found["smtp_from"] = paging.smtp.sender
        found["smtp_require_tls"] = paging.smtp.require_tls
        if paging.smtp.username is not None:
            found["smtp_auth_username"] = paging.smtp.username
            found["smtp_auth_password_file"] = f"{paging.secrets}/{SMTP_FILE}"
    return found


def receiver(name: str, channels: tuple[Channel, ...], secrets: str, resolved: bool = True) -> dict[str, Any]:
    """Alertmanager's receiver of that name."""
    found: dict[str, Any] = {"name": name}
    for channel in channels:
        kind = next(kind for kind in KINDS if getattr(channel, kind) is not None)
        content = {**_CONFIGS[kind](channel, secrets), "send_resolved": resolved}
        found.setdefault(f"{kind}_configs", []).append(content)
    return found


def _slack(channel: Channel, secrets: str) -> dict[str, Any]:
    return {
        "channel": channel.slack,
        "api_url_file": f"{secrets}/{SLACK_FILE}",
        "title": SLACK_TITLE,
        "fallback": SLACK_TITLE,  # of notifications; Alertmanager's own has all labels as they are
        "text": SLACK_TEXT,
    }


def _pagerduty(channel: Channel, secrets: str) -> dict[str, Any]:
    return {
        "routing_key_file": f"{secrets}/{channel.pagerduty}",
        "description": TITLE,
        "client": "rlhf_otel",
        "severity": "{{ with .CommonLabels.severity }}{{ . }}{{ else }}critical{{ end }}",
        "details": {
            "firing": TEXT,  # instead of all labels and annotations of each alert
            "run": "{{ .GroupLabels.run_id }}",
            "team": "{{ .CommonLabels.team }}",
            "owner": "{{ (index .Alerts 0).Annotations.owner }}",
        },
        "links": [
            {"href": '{{ template "rlhf.silence" . }}', "text": "Silence this run"},
            *(
                {"href": f"{{{{ (index .Alerts 0).Annotations.{name}_url }}}}", "text": name.capitalize()}
                for name in ("board", "trace", "runbook")
            ),
        ],
    }


def _email(channel: Channel, secrets: str) -> dict[str, Any]:
    return {
        "to": channel.email,
        "headers": {"subject": TITLE},
        "html": '{{ template "rlhf.html" . }}',
        "text": TEXT,
    }


def _webhook(channel: Channel, secrets: str) -> dict[str, Any]:
    found: dict[str, Any] = {"url": channel.webhook}
    if channel.token is not None:
        found["http_config"] = {"authorization": {"credentials_file": f"{secrets}/{channel.token}"}}
    return found


_CONFIGS: Final = {"slack": _slack, "pagerduty": _pagerduty, "email": _email, "webhook": _webhook}
