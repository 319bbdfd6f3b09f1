"""The web configuration file: TLS, client certificates, passwords and tokens of the metrics endpoint.

It is the file that Prometheus' own exporters take (``--web.config.file``), so that one made for them serves here:
https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. ``promtool check web-config``
knows all of it but ``bearer_tokens``, which is ours. What Python's ``ssl`` cannot do is refused, and never ignored.

    tls_server_config:
      cert_file: tls.crt              # beside this file, or an absolute path
      key_file: tls.key
      client_auth_type: RequireAndVerifyClientCert
      client_ca_file: ca.crt
    basic_auth_users:
      prometheus: $scrypt$ln=14,...   # rlhf-otel hash-password
    bearer_tokens:
      prometheus: $scrypt$ln=14,...
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rlhf_otel import tls_server, yaml_limits
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.password_hash import PasswordHash, parse

MAX_TOKENS: Final = 8
"""An unknown token is compared with each."""
MAX_USERS: Final = 100
_NOT_IN_PYTHON: Final = (
    "is not supported: Python's ssl verifies each certificate that a client shows; use {instead}"
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TLSServerConfig(_Strict):
    """The part ``tls_server_config``."""

    cert_file: Path
    key_file: Path
    client_auth_type: Literal[
        "NoClientCert",
        "VerifyClientCertIfGiven",
        "RequireAndVerifyClientCert",
        "RequestClientCert",
        "RequireAnyClientCert",
    ] = "NoClientCert"
    client_ca_file: Path | None = None
    client_allowed_sans: tuple[str, ...] = ()
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        kind = self.client_auth_type
        if kind in ("RequestClientCert", "RequireAnyClientCert"):
            instead = (
                "VerifyClientCertIfGiven" if kind == "RequestClientCert" else "RequireAndVerifyClientCert"
            )
            raise ValueError(f"client_auth_type {kind} {_NOT_IN_PYTHON.format(instead=instead)}")
        if (kind == "NoClientCert") != (self.client_ca_file is None):
            raise ValueError(
                "client_ca_file and a client_auth_type other than NoClientCert go together; without both, no client's "
                "certificate is verified"
            )
        if self.client_allowed_sans and kind != "RequireAndVerifyClientCert":
            raise ValueError("client_allowed_sans needs client_auth_type RequireAndVerifyClientCert")
        if (self.min_version, self.max_version) == ("TLS13", "TLS12"):
            raise ValueError("min_version is above max_version")
        return self


class HTTPServerConfig(_Strict):
    """The part ``http_server_config``."""

    http2: bool = True
    """Whether it *may* be spoken; it is not."""


class _File(_Strict):
    tls_server_config: TLSServerConfig | None = None
    http_server_config: HTTPServerConfig = HTTPServerConfig()
    basic_auth_users: dict[str, str] = Field({}, max_length=MAX_USERS)
    bearer_tokens: dict[str, str] = Field({}, max_length=MAX_TOKENS)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """A file that was read and found good."""

    context: ssl.SSLContext | None = None
    """None where plain HTTP is served."""
    allowed_sans: tuple[str, ...] = ()
    users: dict[str, PasswordHash] = field(default_factory=dict)
    tokens: tuple[PasswordHash, ...] = ()
    files: tuple[Path, ...] = ()
    """All that it was made of."""
    warning: str = ""
    """What will keep clients away, though it is well-formed."""


def load(path: Path) -> WebConfig:
    """The configuration in a file. Raises ConfigurationError, which names the file and repeats no secret."""
    content = _read(path)
    try:
        said = _File.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError("\n".join(f"{path}: {line}" for line in _lines(error))) from None
    users = {
        name: _hash(path, f"basic_auth_users.{name}", text) for name, text in said.basic_auth_users.items()
    }
    tokens = tuple(_hash(path, f"bearer_tokens.{name}", text) for name, text in said.bearer_tokens.items())
    if any(not name or ":" in name for name in users):
        raise ConfigurationError(f"{path}: basic_auth_users: a name must not be empty nor have a colon")
    if said.tls_server_config is None:
        return WebConfig(None, (), users, tokens, (path,))
    made = _context(path, said.tls_server_config)
    sans = said.tls_server_config.client_allowed_sans
    return WebConfig(made.context, sans, users, tokens, (path, *made.files), made.warning)


def _read(path: Path) -> Any:
    try:
        content = yaml_limits.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"web configuration {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        said = yaml_limits.problem(error)
        raise ConfigurationError(f"web configuration {path} is not YAML: {said}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"web configuration {path} must be a mapping")
    return content


def _lines(error: ValidationError) -> list[str]:
    """What is wrong, without what was given: it may be a secret in the wrong place."""
    return [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_input=False)
    ]


def _hash(path: Path, place: str, text: str) -> PasswordHash:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigurationError(f"{path}: {place} {error}") from None


def _context(path: Path, said: TLSServerConfig) -> tls_server.Made:
    beside = path.parent
    return tls_server.make(
        beside / said.cert_file,
        beside / said.key_file,
        beside / said.client_ca_file if said.client_ca_file is not None else None,
        required=said.client_auth_type == "RequireAndVerifyClientCert",
        versions=(said.min_version, said.max_version),
    )
