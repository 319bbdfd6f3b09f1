"""Which Prometheus servers scrape us, how often, and whether each has seen the end of the run.

A run's last values must reach every Prometheus server that watches it, or a clean finish looks like a crash
and pages. So the endpoint outlives the run until each server has scraped twice more, and no longer: without a
Prometheus there is nothing to wait for.

Two replicas on one host share address and User-Agent. What tells them apart is that each keeps its
connection, so a client *is* its connection while that lives. One that connects anew for every scrape takes up
the client that its address and User-Agent left behind.
"""

from __future__ import annotations

import itertools
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from rlhf_otel.exporters.http_connection import Peer

SEEN_WITHIN_S: Final = 300.0
"""A client that has not scraped for this long before the end of a run is not waited for."""
ASSUMED_INTERVAL_S: Final = 15.0
"""Scrape interval of a client that scraped once and did not say its timeout."""
SLACK_S: Final = 1.0
"""Lateness of a scrape on a busy host, on top of whole intervals."""
GRACE_INTERVALS: Final = 1.5
"""How long a client may be without a connection before it counts as gone."""
SILENT_INTERVALS: Final = 2.5
"""How long a connected client may miss its scrapes during a hold before it is given up."""
SCRAPES_KEPT: Final = 9
MOST_CLIENTS: Final = 256
USER_AGENT_KEPT: Final = 120

TIMEOUT_HEADER: Final = "X-Prometheus-Scrape-Timeout-Seconds"


@dataclass(frozen=True, slots=True)
class ScrapeRequest:
    """What a request of /metrics says of a Prometheus server that sent it."""

    user_agent: str
    timeout_s: float | None

    @classmethod
    def read(cls, user_agent: str | None, timeout: str | None) -> ScrapeRequest | None:
        """Made of the headers User-Agent and ``TIMEOUT_HEADER``; None for curl, a browser and the like."""
        if timeout is None and not (user_agent or "").startswith("Prometheus/"):
            return None
        return cls((user_agent or "")[:USER_AGENT_KEPT], _positive(timeout))


@dataclass(slots=True, eq=False)
class ScrapeClient:
    """One Prometheus server; its times are readings of a monotonic clock in seconds."""

    address: str
    user_agent: str
    connection: Peer | None
    timeout_s: float | None = None
    closed_at: float = 0.0
    """When its last connection closed; means something only without a connection."""
    scrapes: deque[float] = field(default_factory=lambda: deque(maxlen=SCRAPES_KEPT))
    """When its latest scrapes began."""
    whole: deque[float] = field(default_factory=lambda: deque(maxlen=SCRAPES_KEPT))
    """When those of them began that were answered whole."""

    @property
    def observed_interval_s(self) -> float | None:
        """Median gap between its recent scrapes; None before the second."""
        times = list(self.scrapes)
        if len(times) < 2:
            return None
        return statistics.median(after - before for before, after in itertools.pairwise(times))

    @property
    def interval_s(self) -> float:
        """Its scrape interval: observed, or no less than its timeout, or assumed."""
        return self.observed_interval_s or self.timeout_s or ASSUMED_INTERVAL_S

    def held(self, began: float) -> int:
        """Whole scrapes since a hold began, as far as they are kept."""
        return sum(scrape > began for scrape in self.whole)

    def gone(self, now: float) -> bool:
        """Whether it closed its connection and let an interval pass without a new one."""
        return self.connection is None and now >= self._gone_at()

    def hoped_until(self, began: float, deadline: float) -> float:
        """Until when another scrape of it is worth waiting for, in a hold from ``began`` to ``deadline``."""
        interval = self.observed_interval_s
        if interval is not None and self.scrapes[-1] + interval > deadline + SLACK_S:
            return began
        if self.connection is None:
            return min(deadline, self._gone_at())
        if interval is None:
            return deadline
        return min(deadline, max(began, self.scrapes[-1]) + SILENT_INTERVALS * interval + SLACK_S)

    def _gone_at(self) -> float:
        return self.closed_at + GRACE_INTERVALS * self.interval_s + SLACK_S


class ScrapeClients:
    """All Prometheus servers seen lately. Every method may be called from any thread."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        condition: threading.Condition | None = None,
    ) -> None:
        self._clock = clock
        # A condition's own lock is re-entrant: a signal handler may begin a hold while its thread is in here.
        self._changed = condition or threading.Condition()
        self._clients: list[ScrapeClient] = []
        self._began: float | None = None
        self._closed = False

    def present(self) -> int:
        """Servers that are connected, or between two connections, and scraped in the last five minutes."""
        with self._changed:
            now = self._clock()
            return len(self._awaited(now, now))

    def scraped(self, peer: Peer, request: ScrapeRequest, started: float, *, whole: bool = True) -> None:
        """Note a scrape that began at ``started``; it counts for a hold if it was answered ``whole``."""
        with self._changed:
            client = self._client(peer, request)
            client.scrapes.append(started)
            client.timeout_s = request.timeout_s
            if whole:
                client.whole.append(started)
            self._changed.notify_all()

    def disconnected(self, peer: Peer) -> None:
        """Note that a connection closed; harmless for one that never scraped."""
        with self._changed:
            for client in self._clients:
                if client.connection == peer:
                    client.connection, client.closed_at = None, self._clock()
            self._changed.notify_all()

    def begin_hold(self) -> float:
        """Mark the end of a run: scrapes from now on carry it. Call it after the end is in the snapshot.

        Returns the moment, for :meth:`wait_held`.
        """
        with self._changed:
            self._began = self._clock()
            self._changed.notify_all()
            return self._began

    def wait_held(self, limit_s: float = 60.0, *, scrapes_each: int = 2, since: float | None = None) -> bool:
        """Wait until every client has scraped ``scrapes_each`` times (9 at most) in a hold, at most
        ``limit_s`` of it.

        The hold is the one that began at ``since``, or the latest. The limit counts from its beginning;
        without a hold there is nothing to wait for. Gives up earlier
        on a client from which nothing can come in time: silent, or with an interval that reaches beyond the
        limit. True if all who are still there got their scrapes; at once if there are none.
        """
        with self._changed:
            while (began := self._began if since is None else since) is not None:
                now = self._clock()
                owing = [c for c in self._awaited(began, now) if c.held(began) < scrapes_each]
                until = max((c.hoped_until(began, began + limit_s) for c in owing), default=now)
                if until <= now or self._closed:
                    return not owing
                self._changed.wait(min(until - now, threading.TIMEOUT_MAX))
            return True

    def close(self) -> None:
        """End every wait: nobody can scrape any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _awaited(self, since: float, now: float) -> list[ScrapeClient]:
        """Clients that scraped in the five minutes before ``since`` or later, and are not gone ``now``."""
        return [c for c in self._clients if c.scrapes[-1] >= since - SEEN_WITHIN_S and not c.gone(now)]

    def _client(self, peer: Peer, request: ScrapeRequest) -> ScrapeClient:
        self._forget_old()
        for client in self._clients:
            if client.connection == peer:
                return client
        left_behind = [c for c in self._clients if c.connection is None and _same_origin(c, peer, request)]
        if left_behind:
            # Of two replicas that both reconnect, the one that scraped longest ago is due next.
            client = min(left_behind, key=lambda c: c.scrapes[-1])
            client.connection = peer
            return client
        client = ScrapeClient(peer[0], request.user_agent, peer)
        self._clients.append(client)
        return client

    def _forget_old(self) -> None:
        """Bound the memory; but keep the gone a while, so that a slow one who returns finds its interval."""
        oldest = self._clock() - 2 * SEEN_WITHIN_S
        kept = [client for client in self._clients if client.scrapes[-1] >= oldest]
        self._clients = sorted(kept, key=lambda c: c.scrapes[-1])[-MOST_CLIENTS + 1 :]


def _same_origin(client: ScrapeClient, peer: Peer, request: ScrapeRequest) -> bool:
    return client.address == peer[0] and client.user_agent == request.user_agent


def _positive(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
