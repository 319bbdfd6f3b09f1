"""A listening socket and its connections: a bounded number, each on a daemon thread of its own.

``socketserver`` has no bound on threads, prints tracebacks, takes half a second to stop, and ``http.server``
on top of it looks the host up in DNS.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from rlhf_otel import faults

BACKLOG: Final = 128
ACCEPT_WAIT_S: Final = 1.0
"""How often the accepting thread looks whether it should stop; on Linux it is woken at once."""
JOIN_S: Final = 2.0
LAST_PORT: Final = 65535

REFUSAL: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n"
    b"Content-Length: 21\r\n"
    b"Retry-After: 1\r\n"
    b"Connection: close\r\n\r\n"
    b"too many connections\n"
)


def bind(host: str, port: int, attempts: int) -> socket.socket:
    """Listen at ``host`` and the first free port of ``attempts`` from ``port`` on; port 0 takes any.

    Raises OSError, OverflowError or UnicodeError when there is none, or the host is not ours.
    """
    last = min(port + max(attempts, 1) - 1, max(port, LAST_PORT)) if port else port
    for candidate in range(port, last):
        try:
            return _listen(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _listen(host, last)


def _listen(host: str, port: int) -> socket.socket:
    # The port stays out of this look-up, which would take it modulo 65536.
    found = socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # "localhost" and "" may name both families: IPv4 is the one that every client tries.
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # elsewhere it would let two processes share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address[0], port, *address[2:]))
        listening.listen(BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


class Listener:
    """Accepts connections of a listening socket, and hands each to ``serve`` on a thread of its own."""

    def __init__(
        self,
        listening: socket.socket,
        serve: Callable[[socket.socket, tuple[Any, ...]], object],
        max_connections: int,
        secured: Callable[[socket.socket], socket.socket] | None = None,
    ) -> None:
        """``secured`` puts TLS around a connection, without a word to the other end yet."""
        self.port: int = listening.getsockname()[1]
        self.refused = 0
        """Connections that were turned away because ``max_connections`` were open."""
        self._listening = listening
        self._serve = serve
        self._max_connections = max_connections
        self._secured = secured or _as_it_is
        self._live: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._accepting = threading.Thread(target=self._accept, name="rlhf-otel-endpoint", daemon=True)

    def start(self) -> None:
        """Begin to accept. Raises RuntimeError when no thread can be started."""
        self._listening.settimeout(ACCEPT_WAIT_S)
        self._accepting.start()

    def close(self) -> None:
        """Stop accepting, end live connections and wait for their threads, at most two seconds."""
        with self._lock:
            self._closing.set()
            live = dict(self._live)
        # Each thread closes its own socket: a number closed under a blocked read may be another file by then.
        for connection in (self._listening, *live):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + JOIN_S
        for thread in (self._accepting, *live.values()):
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        if not self._accepting.is_alive():
            self._listening.close()

    def drop(self) -> None:
        """In a forked child: let go of the parent's sockets, without a word to those at the other end.

        No lock is taken, as the thread that held it does not exist here.
        """
        for connection in (self._listening, *self._live):
            connection.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, peer = self._listening.accept()
            except (TimeoutError, ConnectionError):
                continue
            except OSError as error:
                if not self._closing.is_set():
                    faults.record("endpoint", error, "accepting a connection")
                    self._closing.wait(ACCEPT_WAIT_S)  # out of files, mostly: trying at once would spin
                continue
            self._admit(connection, peer)

    def _admit(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        with self._lock:
            if not self._closing.is_set() and len(self._live) < self._max_connections:
                try:
                    secured = self._secured(connection)
                except OSError:  # it has gone already
                    connection.close()
                    return
                if self._begin(secured, peer):
                    return
                connection = secured
            self.refused += 1
        _refuse(connection)

    def _begin(self, connection: socket.socket, peer: tuple[Any, ...]) -> bool:
        thread = threading.Thread(
            target=self._run, args=(connection, peer), name="rlhf-otel-connection", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            faults.record("endpoint", error, "starting a thread for a connection")
            return False
        self._live[connection] = thread
        return True

    def _run(self, connection: socket.socket, peer: tuple[Any, ...]) -> None:
        try:
            with contextlib.suppress(OSError):  # the other end went away, or was too slow: no fault of ours
                self._serve(connection, peer)
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            faults.record("endpoint", error, "answering a request")
        finally:
            with self._lock:
                self._live.pop(connection, None)
            _hang_up(connection)


def _as_it_is(connection: socket.socket) -> socket.socket:
    return connection


def _refuse(connection: socket.socket) -> None:
    """Answer 503 without waiting for the request, which nobody has the time to read."""
    with contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(REFUSAL)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)  # closing with unread data resets the connection, and the answer may be lost
    connection.close()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    connection.close()
