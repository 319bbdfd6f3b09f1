"""A server's TLS context from files, tried out before anybody connects."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NamedTuple

from rlhf_otel.errors import ConfigurationError

VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


class Made(NamedTuple):
    """A context, the files that it is of, and what is wrong with the certificate though it can be served."""

    context: ssl.SSLContext
    files: tuple[Path, ...]
    warning: str


def make(
    certificate: Path, key: Path, client_ca: Path | None, *, required: bool, versions: tuple[str, str]
) -> Made:
    """A context with a certificate (with its chain) and its key, both PEM. With ``client_ca`` a client's certificate is
    verified, and has to be there if ``required``. Raises ConfigurationError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = (VERSIONS[version] for version in versions)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_own(context, certificate, key)
    files: tuple[Path, ...] = (certificate, key)
    if client_ca is not None:
        _readable(client_ca)
        try:
            context.load_verify_locations(cafile=client_ca)
        except (ssl.SSLError, ValueError, OSError):
            raise ConfigurationError(f"{client_ca} holds no certificate in PEM") from None
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        files += (client_ca,)
    return Made(context, files, _trouble(certificate, key))


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _readable(certificate)
    _readable(key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedError:
        raise ConfigurationError(f"{key} is encrypted; a server needs it without a password") from None
    except (ssl.SSLError, ValueError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(f"{key} is not the key of {certificate}") from None
        raise ConfigurationError(
            f"{certificate} and {key} are no certificate and key in PEM: {error}"
        ) from None


class _EncryptedError(Exception):
    """Asked for a password, which OpenSSL would read from the terminal."""


def _no_password() -> str:
    raise _EncryptedError


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None


def _trouble(certificate: Path, key: Path) -> str:
    """Why clients will refuse the certificate, as far as that can be told here: a handshake with ourselves, in memory, by a
    client that trusts this very certificate."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load_own(server, certificate, key)
    client.check_hostname = False
    client.load_verify_locations(cafile=certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server),
    )
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in ends:
            if end in done:
                continue
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return f"{certificate}: clients will refuse it: {error.verify_message}"
            except ssl.SSLError:
                return ""
    return ""
