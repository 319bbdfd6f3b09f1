"""Web configurations for tests, and the clients that go with them."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from rlhf_otel.exporters.endpoint import Endpoint
from rlhf_otel.password_hash import Scrypt

PASSWORD = "correct horse"
TOKEN = "a-token-of-many-characters"
HASH, TOKEN_HASH = (str(Scrypt.of(secret.encode())) for secret in (PASSWORD, TOKEN))

TLS = """\
tls_server_config:
  cert_file: server.crt
  key_file: server.key
"""
MUTUAL = TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n"
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"
TOKENS = f"bearer_tokens:\n  prometheus: {TOKEN_HASH}\n"

Serve = Callable[..., Endpoint]


def client_context(folder: Path, name: str | None = None) -> ssl.SSLContext:
    """That of a client which trusts the authority, and shows the certificate ``name``."""
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    if name is not None:
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return context
