"""How a protected server is asked: a CA, a client's certificate, a password or a token.

The file is what ``promtool --http.config.file`` takes, and what a scrape configuration of Prometheus has under these keys:

    tls_config: {ca_file: ca.crt, cert_file: client.crt, key_file: client.key}
    basic_auth: {username: prometheus, password_file: password}
    authorization: {credentials_file: token}
"""

from __future__ import annotations

import base64
import ssl
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError, model_validator

from rlhf_otel import yaml_limits
from rlhf_otel.errors import ConfigurationError

MAX_SECRET_BYTES: Final = 4096


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class _TLS(_Strict):
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    insecure_skip_verify: bool = False


class _Basic(_Strict):
    username: str
    password: SecretStr | None = None
    password_file: Path | None = None


class _Authorization(_Strict):
    type: str = "Bearer"
    credentials: SecretStr | None = None
    credentials_file: Path | None = None


class _File(_Strict):
    tls_config: _TLS = _TLS()
    basic_auth: _Basic | None = None
    authorization: _Authorization | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.basic_auth is not None and self.authorization is not None:
            raise ValueError("basic_auth and authorization exclude each other")
        return self


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the password to where nobody has checked."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(frozen=True, slots=True)
class HttpClient:
    """Asks with what a file says. Its text shows no secret."""

    _context: ssl.SSLContext
    _authorization: SecretStr | None = None

    def open(self, address: str, timeout_s: float) -> Any:
        """The answer to a GET. Raises OSError, such as urllib.error.HTTPError."""
        request = urllib.request.Request(address)
        if self._authorization is not None:
            request.add_unredirected_header("Authorization", self._authorization.get_secret_value())
        secure = urllib.request.HTTPSHandler(context=self._context)
        return urllib.request.build_opener(secure, _NoRedirect).open(request, timeout=timeout_s)


def load(path: Path) -> HttpClient:
    """The client of a file; paths in it are relative to it. Raises ConfigurationError, which repeats no secret."""
    try:
        said = _File.model_validate(yaml_limits.load(path.read_text(encoding="utf-8")) or {})
        return HttpClient(_context(said.tls_config, path.parent), _authorization(said, path.parent))
    except ValidationError as error:
        wrong = (
            f"{path}: {'.'.join(map(str, each['loc']))}: {each['msg']}"
            for each in error.errors(include_input=False)
        )
        raise ConfigurationError("\n".join(wrong)) from None
    except ssl.SSLError as error:
        raise ConfigurationError(f"{path}: tls_config: {error.reason}") from None
    except OSError as error:
        raise ConfigurationError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path} is not YAML: {yaml_limits.problem(error)}") from None


def _context(said: _TLS, beside: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=beside / said.ca_file if said.ca_file else None)
    if said.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if said.cert_file is not None:
        context.load_cert_chain(
            beside / said.cert_file, beside / said.key_file if said.key_file else None, password=lambda: ""
        )
    return context


def _authorization(said: _File, beside: Path) -> SecretStr | None:
    if said.basic_auth is not None:
        basic = said.basic_auth
        secret = _secret(basic.password, basic.password_file, beside)
        text = base64.b64encode(f"{basic.username}:{secret}".encode()).decode()
        return SecretStr(f"Basic {text}")
    if said.authorization is not None:
        given = said.authorization
        return SecretStr(f"{given.type} {_secret(given.credentials, given.credentials_file, beside)}")
    return None


def _secret(given: SecretStr | None, file: Path | None, beside: Path) -> str:
    if given is not None:
        return given.get_secret_value()
    if file is None:
        return ""
    with (beside / file).open("rb") as opened:
        return opened.read(MAX_SECRET_BYTES).decode().strip()
