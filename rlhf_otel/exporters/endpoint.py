"""The scrape endpoint: /metrics, /healthz, /stacks and an index, on threads that training never waits for.

Nothing here knows what the metrics are: a registry is collected when somebody asks. One scrape is collected
at a time, so that a crowd of clients is one thread that wants the interpreter beside training, not sixty.
"""

from __future__ import annotations

import gzip
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any, Final

from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector, CollectorRegistry

from rlhf_otel import faults
from rlhf_otel.exporters import text_format
from rlhf_otel.exporters.http_connection import Answer, HttpConnection, Request
from rlhf_otel.exporters.listener import Listener, bind
from rlhf_otel.exporters.protection import Protection
from rlhf_otel.exporters.scrape_clients import TIMEOUT_HEADER, ScrapeClients, ScrapeRequest

PROMETHEUS_IDLE_S: Final = 330.0
"""How long a Prometheus may keep its connection between scrapes: longer than the five minutes that it wants
itself, so that we never make two replicas on one host reconnect and look like one."""
GZIP_LEVEL: Final = 4
"""A sixth of the time of ``gzip.compress``'s own level, for a seventh more bytes."""

REWRITES_NAMES: Final = ("escaping=dots", "escaping=values")
"""Ends of a content type whose scheme of escaping changes plain names too."""

HTML: Final = "text/html; charset=utf-8"
INDEX: Final = b"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>rlhf_otel</title></head>
<body><h1>rlhf_otel</h1><p>A training run, observed.</p>
<ul><li><a href="/metrics">/metrics</a></li><li><a href="/healthz">/healthz</a></li>
<li><a href="/stacks">/stacks</a>: what all threads do now, and did at the last stall</li></ul></body></html>
"""

Health = Callable[[], tuple[bool, str]]
"""Whether the run is well, and if not, why."""
Stacks = Callable[[], str | None]
"""What all threads do; None where nobody is to know."""
STACKS_AGAIN_S: Final = 1.0
"""For so long the stacks are those of the question before: a crowd that asks costs training nothing."""
MOST_OF_STACKS: Final = 2**20
"""Characters of stacks that are sent."""


class Endpoint:
    """Serves a registry over HTTP until it is closed. Nothing here raises into the caller."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: Collector | CollectorRegistry,
        health: Health,
        *,
        stacks: Stacks | None = None,
        port_attempts: int = 32,
        max_connections: int = 64,
        request_timeout_s: float = 10.0,
        protection: Protection | None = None,
    ) -> None:
        self.host = host
        self.port = port
        """The port that was asked for; once started, the one that was bound."""
        self.url: str | None = None
        """Base of the addresses, such as ``http://localhost:9464``, while it listens."""
        self.scrapes = 0
        """Answered requests of /metrics."""
        self.scrape_seconds = 0.0
        """Time spent collecting, encoding and compressing; not waiting for clients, which costs nothing."""
        self.clients = ScrapeClients()
        self._registry = registry
        self._health = health
        self._stacks = stacks
        self._stacks_before: tuple[float, Answer] | None = None
        self._port_attempts = port_attempts
        self._max_connections = max_connections
        self._timeout_s = request_timeout_s
        self._protection = protection or Protection(host)
        self._listener: Listener | None = None
        self._refused_before = 0
        self._renew_locks()

    @property
    def refused(self) -> int:
        """Connections turned away because too many were open."""
        listener = self._listener
        return self._refused_before + (listener.refused if listener else 0)

    def start(self) -> str | None:
        """Listen, at a following port if this one is taken; the URL, or None and a fault if none is free."""
        with self._lock:
            if self._listener is not None:
                return self.url
            try:
                self._listen()
            except (OSError, OverflowError, UnicodeError, RuntimeError) as error:
                faults.record("endpoint", error, f"binding {self.host}:{self.port}")
                return None
            _endpoints.add(self)
            return self.url

    def begin_hold(self) -> float:
        """Mark the end of a run, once the snapshot says it; does not block. Returns the moment."""
        return self.clients.begin_hold()

    def wait_held(self, limit_s: float = 60.0, *, scrapes_each: int = 2, since: float | None = None) -> bool:
        """Wait until every Prometheus server has the end: see :meth:`ScrapeClients.wait_held`."""
        return self.clients.wait_held(limit_s, scrapes_each=scrapes_each, since=since)

    def close(self) -> None:
        """Stop listening, end live connections and waits; within two seconds. May be repeated."""
        with self._lock:
            listener, self._listener, self.url = self._listener, None, None
            _endpoints.discard(self)
            if listener is not None:
                self._refused_before += listener.refused
        if listener is not None:
            self.clients.close()
            listener.close()

    def _listen(self) -> None:
        listening = bind(self.host, self.port, self._port_attempts)
        listener = Listener(listening, self._serve, self._max_connections, self._protection.secured)
        try:
            listener.start()
        except RuntimeError:
            listening.close()
            raise
        if self.port not in (0, listener.port):
            faults.note("endpoint", f"port {self.port} is taken: metrics are at port {listener.port}")
        self.port, self._listener = listener.port, listener
        self.clients = ScrapeClients()
        self.url = f"{self._protection.scheme}://{_url_host(self.host)}:{self.port}"

    def _serve(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        clients, peer = self.clients, (str(address[0]), int(address[1]))
        try:
            self._protection.greet(connection, self._timeout_s)
            HttpConnection(connection, peer, self._answer, self._timeout_s)
        finally:
            clients.disconnected(peer)

    def _answer(self, request: Request) -> Answer:
        return self._protection.refusal(request) or self._page(request)

    def _page(self, request: Request) -> Answer:
        match request.path:
            case "/metrics":
                return self._metrics(request)
            case "/healthz":
                return self._healthz()
            case "/stacks":
                return self._stacks_now()
            case "/":
                return Answer(INDEX, HTML)
            case _:
                return Answer(b"not found\n", status=HTTPStatus.NOT_FOUND)

    def _metrics(self, request: Request) -> Answer:
        started = time.monotonic()
        answer = self._scrape(request.header("Accept") or "", request.header("Accept-Encoding") or "")
        scrape = ScrapeRequest.read(request.header("User-Agent"), request.header(TIMEOUT_HEADER))
        if scrape is None or request.method == "HEAD":
            return answer
        whole = answer.status == HTTPStatus.OK
        sent = partial(self.clients.scraped, request.peer, scrape, started, whole=whole)
        return replace(answer, keep_s=PROMETHEUS_IDLE_S, sent=sent)

    def _scrape(self, accept: str, accept_encoding: str) -> Answer:
        if not self._collecting.acquire(timeout=self._timeout_s):
            error = TimeoutError(f"an earlier scrape has been collecting for {self._timeout_s} s")
            faults.record("exposition", error, "waiting to collect metrics")
            return Answer(b"an earlier scrape is collecting\n", status=HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            return self._collect(accept, accept_encoding)
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            faults.record("exposition", error, "collecting metrics for a scrape")
            return Answer(b"collecting failed: see the run's log\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)
        finally:
            self._collecting.release()

    def _collect(self, accept: str, accept_encoding: str) -> Answer:
        started = time.perf_counter()
        encode, content_type = _choose_encoder(accept, getattr(self._registry, "plain_names", False))
        body = encode(self._registry)
        headers: tuple[tuple[str, str], ...] = (("Vary", "Accept, Accept-Encoding"),)
        if gzip_accepted(accept_encoding):
            body = gzip.compress(body, GZIP_LEVEL)
            headers += (("Content-Encoding", "gzip"),)
        self.scrapes += 1
        self.scrape_seconds += time.perf_counter() - started
        return Answer(body, content_type, headers=headers)

    def _healthz(self) -> Answer:
        try:
            well, reason = self._health()
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            faults.record("endpoint", error, "asking for the run's health")
            return Answer(b"health is unknown: see the run's log\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)
        if well:
            return Answer(b"ok")
        return Answer(reason.encode(errors="replace"), status=HTTPStatus.SERVICE_UNAVAILABLE)

    def _stacks_now(self) -> Answer:
        before, now = self._stacks_before, time.monotonic()
        if before is not None and now - before[0] < STACKS_AGAIN_S:
            return before[1]
        try:
            text = self._stacks() if self._stacks is not None else None
        except Exception as error:  # noqa: BLE001 - recorded with its traceback
            faults.record("endpoint", error, "taking the stacks of all threads")
            return Answer(b"no stacks: see the run's log\n", status=HTTPStatus.INTERNAL_SERVER_ERROR)
        if text is None:
            return Answer(b"no run, or stall_stacks is off\n", status=HTTPStatus.NOT_FOUND)
        answer = Answer(text[:MOST_OF_STACKS].encode(errors="backslashreplace"))
        self._stacks_before = now, answer
        return answer

    def _renew_locks(self) -> None:
        self._lock = threading.RLock()  # a signal handler may close what its own thread is starting
        self._collecting = threading.Lock()

    def _leave_to_parent(self) -> None:
        """In a forked child: the port, the connections and those who hold the locks are the parent's."""
        listener, self._listener, self.url = self._listener, None, None
        self._renew_locks()
        self.clients = ScrapeClients()
        if listener is not None:
            listener.drop()


def _choose_encoder(accept: str, plain_names: bool = False) -> tuple[Callable[[Any], bytes], str]:
    """prometheus_client's choice; plain text where it fails on a version that is no number. Where names are plain
    and are to stay as they are, the same is written faster."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        encode, content_type = choose_encoder("")
    if not plain_names or content_type.endswith(REWRITES_NAMES):
        return encode, content_type
    openmetrics = content_type.startswith("application/openmetrics-text")
    return (lambda collector: text_format.encode(collector.collect(), openmetrics)), content_type


def _url_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host


_endpoints: weakref.WeakSet[Endpoint] = weakref.WeakSet()


def _leave_to_parent() -> None:
    for endpoint in list(_endpoints):
        endpoint._leave_to_parent()
    _endpoints.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
