"""What stands between the network and an endpoint's pages: TLS, names, passwords and tokens.

All that takes time (a handshake, a check of a password, a look at the files) happens on the thread of the connection that
asks for it. Files that are renewed on disk are taken up; while they cannot be read, what was read before stays in force.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from rlhf_otel import faults
from rlhf_otel.errors import ConfigurationError
from rlhf_otel.exporters.credentials import Credentials, Verdict
from rlhf_otel.exporters.host_names import HostNames
from rlhf_otel.exporters.http_connection import Answer, Request
from rlhf_otel.web_config import WebConfig, load

LOOK_S: Final = 5.0
"""Between two looks whether the files have changed, at least."""
_PLAIN_ON_TLS: Final = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    b"this port speaks HTTPS\n"
)
_WRONG: Final = b"no user name and password, or token, that metrics_web_config knows\n"
_LATER: Final = b"another password is being looked at; one in a second is: try again\n"

Stamp = tuple[tuple[int, int, int] | None, ...]


class Protection:
    """Of one endpoint. Called from any thread but that of training."""

    def __init__(
        self,
        listening: str,
        allowed_hosts: Collection[str] = (),
        web: WebConfig | None = None,
        path: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``web`` is what was read from ``path``, which is read again when it or a file that it names changes."""
        self._names = HostNames(listening, allowed_hosts)
        self._web = web or WebConfig()
        self._path = path
        self._clock = clock
        self._credentials = Credentials(self._web.users, self._web.tokens)
        self._stamp: Stamp | None = None
        self._next_look = 0.0
        self._looking = threading.Lock()
        _tell(self._web.warning)

    @property
    def scheme(self) -> str:
        """``http`` or ``https``; it stays."""
        return "http" if self._web.context is None else "https"

    def secured(self, connection: socket.socket) -> socket.socket:
        """The connection with TLS around it, where that is served; nothing is sent or read yet."""
        context = self._web.context
        if context is None:
            return connection
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def greet(self, connection: socket.socket, timeout_s: float) -> None:
        """Shake hands, within ``timeout_s``. Raises OSError where it fails, or the client's certificate is not wanted."""
        self._look_for_changes()
        if not isinstance(connection, ssl.SSLSocket):
            return
        connection.settimeout(timeout_s)
        try:
            connection.do_handshake()
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                with contextlib.suppress(OSError):
                    socket.socket.send(connection, _PLAIN_ON_TLS)  # below TLS
            raise
        allowed = self._web.allowed_sans
        if allowed and not _names_of(connection.getpeercert() or {}) & set(allowed):
            raise ConnectionRefusedError("a certificate of another client")

    def refusal(self, request: Request) -> Answer | None:
        """What a request gets that may not be answered; None where it may."""
        if not self._names.knows(request.header("Host")):
            said = b"not a name of this endpoint; the setting metrics_allowed_hosts lists more\n"
            return Answer(said, status=HTTPStatus.MISDIRECTED_REQUEST)
        self._look_for_changes()
        credentials = self._credentials
        if not credentials.wanted:
            return None
        match credentials.check(request.header("Authorization")):
            case Verdict.RIGHT:
                return None
            case Verdict.LATER:
                later = (("Retry-After", "1"),)
                return Answer(_LATER, status=HTTPStatus.TOO_MANY_REQUESTS, headers=later)
            case _:
                headers = tuple(("WWW-Authenticate", each) for each in credentials.challenges)
                return Answer(_WRONG, status=HTTPStatus.UNAUTHORIZED, headers=headers)

    def _look_for_changes(self) -> None:
        if self._path is None or self._clock() < self._next_look or not self._looking.acquire(blocking=False):
            return
        try:
            self._next_look = self._clock() + LOOK_S
            stamp = _stamp_of(self._web.files)
            if (
                stamp != self._stamp
            ):  # at the first look too: much may have changed since the settings were read
                self._take_up(self._path, stamp)
        finally:
            self._looking.release()

    def _take_up(self, path: Path, stamp: Stamp) -> None:
        try:
            web = load(path)
            if (web.context is None) != (self._web.context is None):
                raise ConfigurationError(f"{path}: TLS comes and goes with a new start alone")
        except ConfigurationError as error:  # half of it is renewed, mostly; looked at again
            faults.record(
                "endpoint", error, "reading the web configuration again; the one before stays in force"
            )
            return
        if (web.users, web.tokens) != (self._web.users, self._web.tokens):
            self._credentials = Credentials(web.users, web.tokens)
        if web.warning != self._web.warning:
            _tell(web.warning)
        self._stamp = stamp if web.files == self._web.files else _stamp_of(web.files)
        self._web = web


def _tell(warning: str) -> None:
    if warning:
        faults.note("endpoint", warning)


def _stamp_of(files: Collection[Path]) -> Stamp:
    return tuple(_of(path) for path in files)


def _of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _names_of(certificate: Mapping[str, Any]) -> set[str]:
    """All alternative names of a client: DNS names, addresses, e-mail addresses, URIs."""
    return {str(name) for _, name in certificate.get("subjectAltName", ())}
