"""Holds in simulated time: whole Prometheus servers' schedules, minutes long, in microseconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.exporters.http_connection import Peer
from rlhf_otel.exporters.scrape_clients import ScrapeClients, ScrapeRequest

PROMETHEUS = ScrapeRequest("Prometheus/2.42.0", 10.0)


class Simulation(threading.Condition):
    """A clock, a schedule, and the condition whose ``wait`` lets time pass until the next event."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.schedule: list[tuple[float, Callable[[], None]]] = []
        self.clients = ScrapeClients(clock=lambda: self.now, condition=self)
        self.ports = 40000

    def __enter__(self) -> bool:
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def notify_all(self) -> None:
        pass

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout > 0
        return self.advance(timeout)

    def advance(self, seconds: float) -> bool:
        """Let one event happen if there is one within ``seconds``; else let them pass."""
        until = self.now + seconds
        self.schedule.sort(key=lambda event: event[0])
        if self.schedule and self.schedule[0][0] <= until:
            self.now, event = self.schedule.pop(0)
            event()
            return True
        self.now = until
        return False

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.advance(until - self.now):
            pass

    def at(self, seconds_from_now: float, event: Callable[[], None]) -> None:
        self.schedule.append((self.now + seconds_from_now, event))

    def next_peer(self, address: str = "127.0.0.1") -> Peer:
        self.ports += 1
        return (address, self.ports)


class Server:
    """A Prometheus server with an interval; it keeps its connection, or makes one for each scrape."""

    def __init__(
        self,
        simulation: Simulation,
        interval_s: float,
        first_s: float,
        *,
        address: str = "127.0.0.1",
        keeps: bool = True,
        request: ScrapeRequest = PROMETHEUS,
    ) -> None:
        self.simulation, self.interval_s, self.address, self.keeps = simulation, interval_s, address, keeps
        self.request = request
        self.peer = simulation.next_peer(address)
        self.times: list[float] = []
        self.alive = True
        self.whole = True
        self.before = 0
        simulation.at(first_s, self.scrape)

    def scrape(self) -> None:
        if not self.alive:
            return
        simulation = self.simulation
        self.times.append(simulation.now)
        simulation.clients.scraped(self.peer, self.request, simulation.now, whole=self.whole)
        if not self.keeps:
            simulation.clients.disconnected(self.peer)
            self.peer = simulation.next_peer(self.address)
        simulation.at(self.interval_s, self.scrape)

    def die(self, *, closing: bool = True) -> None:
        self.alive = False
        if closing:
            self.simulation.clients.disconnected(self.peer)

    def end(self) -> None:
        """Count anew from here."""
        self.before = len(self.times)

    @property
    def scrapes_since_end(self) -> int:
        return len(self.times) - self.before


@pytest.fixture
def simulation() -> Simulation:
    return Simulation()


def hold(simulation: Simulation, limit_s: float = 60.0, scrapes_each: int = 2) -> tuple[bool, float]:
    """Whether everyone got it, and how long that took."""
    began = simulation.now
    simulation.clients.begin_hold()
    held = simulation.clients.wait_held(limit_s, scrapes_each=scrapes_each)
    return held, simulation.now - began


def test_without_a_client_a_hold_ends_at_once(simulation: Simulation) -> None:
    assert hold(simulation) == (True, 0)


def test_without_a_hold_there_is_nothing_to_wait_for(simulation: Simulation) -> None:
    Server(simulation, 15, 1)
    simulation.run(40)
    assert simulation.clients.wait_held(60) is True


def test_two_replicas_on_one_host_are_told_apart_by_their_connections(simulation: Simulation) -> None:
    Server(simulation, 15, 0)
    Server(simulation, 15, 10)
    simulation.run(50)
    assert simulation.clients.present() == 2
    assert hold(simulation) == (True, 25)  # one at 55 and 70, the other at 60 and 75


def test_an_interruption_needs_one_scrape_each(simulation: Simulation) -> None:
    Server(simulation, 15, 0)
    Server(simulation, 15, 10)
    simulation.run(50)
    assert hold(simulation, scrapes_each=1) == (True, 10)


def test_a_client_that_reconnects_for_every_scrape_still_counts(simulation: Simulation) -> None:
    Server(simulation, 15, 0, keeps=False)
    simulation.run(50)
    assert simulation.clients.present() == 1
    assert hold(simulation) == (True, 25)  # at 60 and 75


def test_a_slow_client_that_reconnects_finds_its_interval_again(simulation: Simulation) -> None:
    """Its timeout of 10 s makes the first guess too short: it counts as gone until its second scrape."""
    Server(simulation, 60, 0, keeps=False)
    simulation.run(50)
    assert simulation.clients.present() == 0
    simulation.run(60)
    assert simulation.clients.present() == 1
    assert hold(simulation, scrapes_each=1) == (True, 10)


def test_a_client_that_shut_down_is_waited_for_one_interval_and_some(simulation: Simulation) -> None:
    server = Server(simulation, 15, 0)
    simulation.run(50)
    server.die()
    assert hold(simulation) == (True, 15 * 1.5 + 1)


def test_a_client_that_left_long_ago_is_not_waited_for(simulation: Simulation) -> None:
    server = Server(simulation, 15, 0)
    simulation.run(50)
    server.die()
    simulation.run(30)
    assert simulation.clients.present() == 0
    assert hold(simulation) == (True, 0)


def test_a_client_that_has_not_scraped_for_five_minutes_is_not_waited_for(simulation: Simulation) -> None:
    server = Server(simulation, 15, 0)
    simulation.run(10)
    server.die(closing=False)
    simulation.run(295)
    assert hold(simulation) == (True, 0)


def test_a_silent_client_is_given_up_before_the_limit(simulation: Simulation) -> None:
    server = Server(simulation, 5, 0)
    simulation.run(12)
    server.die(closing=False)
    assert hold(simulation) == (False, 5 * 2.5 + 1)


def test_a_client_that_scraped_once_has_until_the_limit(simulation: Simulation) -> None:
    Server(simulation, 30, 0)
    simulation.run(5)
    assert hold(simulation) == (True, 55)


def test_the_wait_ends_when_no_further_scrape_can_come_in_time(simulation: Simulation) -> None:
    Server(simulation, 45, 0)
    simulation.run(100)  # at 0, 45, 90; then at 135 and, too late, at 180
    assert hold(simulation) == (False, 35)


def test_an_interval_beyond_the_limit_is_not_waited_for_at_all(simulation: Simulation) -> None:
    Server(simulation, 120, 0)
    simulation.run(130)
    assert hold(simulation) == (False, 0)


def test_the_limit_counts_from_the_begin(simulation: Simulation) -> None:
    Server(simulation, 1000, 0)
    simulation.run(5)
    simulation.clients.begin_hold()
    simulation.run(40)
    assert simulation.clients.wait_held(60) is False
    assert simulation.now == pytest.approx(1065)


def test_a_scrape_that_began_before_the_end_does_not_carry_it(simulation: Simulation) -> None:
    clients, peer = simulation.clients, simulation.next_peer()
    clients.scraped(peer, PROMETHEUS, simulation.now - 15)
    clients.begin_hold()
    clients.scraped(peer, PROMETHEUS, simulation.now - 0.1)
    simulation.at(15, lambda: clients.scraped(peer, PROMETHEUS, simulation.now))
    assert clients.wait_held(60, scrapes_each=1) is True
    assert simulation.now == 1015


def test_a_failed_scrape_keeps_the_client_but_does_not_carry_the_end(simulation: Simulation) -> None:
    server = Server(simulation, 5, 0)
    simulation.run(12)
    server.whole = False
    assert hold(simulation) == (False, 58)  # the one after is too late


def test_a_second_hold_starts_anew(simulation: Simulation) -> None:
    Server(simulation, 15, 0)
    simulation.run(50)
    assert hold(simulation) == (True, 25)
    assert hold(simulation, scrapes_each=1) == (True, 15)


def test_a_replica_that_restarts_within_the_hold_takes_up_its_place(simulation: Simulation) -> None:
    server = Server(simulation, 15, 0)
    simulation.run(50)
    server.die()
    Server(simulation, 15, 12)
    assert hold(simulation) == (True, 27)


def test_closing_ends_the_wait(simulation: Simulation) -> None:
    Server(simulation, 15, 0)
    simulation.run(50)
    simulation.at(3, simulation.clients.close)
    assert hold(simulation) == (False, 3)


def test_the_memory_is_bounded(simulation: Simulation) -> None:
    for number in range(1000):
        request = ScrapeRequest(f"Prometheus/{number}", None)
        simulation.clients.scraped(simulation.next_peer(), request, simulation.now + number / 1000)
    assert simulation.clients.present() == 256
    simulation.now += 700
    simulation.clients.scraped(simulation.next_peer(), PROMETHEUS, simulation.now)
    assert simulation.clients.present() == len(simulation.clients._clients) == 1


schedules = st.lists(
    st.tuples(st.floats(1, 28), st.floats(0, 1), st.booleans()),  # interval, phase, keeps its connection
    min_size=1,
    max_size=5,
)


@given(schedules, st.floats(90, 200))
def test_the_wait_is_as_long_as_the_last_second_scrape_takes(
    servers: list[tuple[float, float, bool]], end_s: float
) -> None:
    simulation = Simulation()
    running = [
        # Those that reconnect each have a host: on one host they could not be told apart.
        Server(simulation, interval, interval * phase, keeps=keeps, address="::1" if keeps else f"10.0.0.{n}")
        for n, (interval, phase, keeps) in enumerate(servers)
    ]
    simulation.run(end_s)
    for server in running:
        server.end()
    held, took_s = hold(simulation)
    assert held
    assert took_s <= 60
    assert min(server.scrapes_since_end for server in running) == 2
    assert simulation.now in {server.times[-1] for server in running if server.scrapes_since_end == 2}


@given(schedules, st.floats(0, 200), st.integers(0, 4), st.booleans(), st.floats(0, 60))
def test_whatever_happens_the_limit_holds(
    servers: list[tuple[float, float, bool]], end_s: float, victim: int, closing: bool, limit_s: float
) -> None:
    simulation = Simulation()
    running = [Server(simulation, i * 3, i * phase, keeps=keeps) for i, phase, keeps in servers]
    simulation.at(end_s * 0.9, lambda: running[victim % len(running)].die(closing=closing))
    simulation.run(end_s)
    for server in running:
        server.end()
    held, took_s = hold(simulation, limit_s)
    assert took_s <= limit_s + 1e-6
    seen = [server for server in running if server.alive and server.keeps and server.before]
    assert not held or all(server.scrapes_since_end >= 2 for server in seen)


def test_a_real_wait_is_woken_by_the_last_scrape() -> None:
    clients = ScrapeClients()
    peer = ("127.0.0.1", 1)
    clients.scraped(peer, PROMETHEUS, -1e9)
    clients.scraped(peer, PROMETHEUS, clients._clock())
    clients.begin_hold()
    held: list[bool] = []
    waiting = threading.Thread(target=lambda: held.append(clients.wait_held(30, scrapes_each=2)))
    waiting.start()
    for _ in range(2):
        clients.scraped(peer, PROMETHEUS, clients._clock())
    waiting.join(5)
    assert held == [True]


@pytest.mark.parametrize(
    ("user_agent", "timeout", "expected"),
    [
        ("Prometheus/2.42.0", "10", ScrapeRequest("Prometheus/2.42.0", 10.0)),
        ("Prometheus/3.0.0", None, ScrapeRequest("Prometheus/3.0.0", None)),
        ("vm_promscrape", "0.9", ScrapeRequest("vm_promscrape", 0.9)),
        (None, "5", ScrapeRequest("", 5.0)),
        ("Prometheus/" + "x" * 500, "nan", ScrapeRequest("Prometheus/" + "x" * 109, None)),
        ("Prometheus/2", "-1", ScrapeRequest("Prometheus/2", None)),
        ("Prometheus/2", "soon", ScrapeRequest("Prometheus/2", None)),
        ("curl/8.0", None, None),
        ("Mozilla/5.0 (X11; Linux)", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_who_is_a_prometheus(
    user_agent: str | None, timeout: str | None, expected: ScrapeRequest | None
) -> None:
    assert ScrapeRequest.read(user_agent, timeout) == expected


@pytest.mark.parametrize(
    ("timeout_s", "grace_s"), [(None, 15 * 1.5 + 1), (4.0, 4 * 1.5 + 1)], ids=["assumed", "timeout"]
)
def test_the_interval_before_the_second_scrape(
    simulation: Simulation, timeout_s: float | None, grace_s: float
) -> None:
    server = Server(simulation, 100, 0, request=ScrapeRequest("Prometheus/2", timeout_s))
    simulation.run(0)
    server.die()
    simulation.run(grace_s - 0.01)
    assert simulation.clients.present() == 1
    simulation.run(0.02)
    assert simulation.clients.present() == 0
