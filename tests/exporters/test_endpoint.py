"""The endpoint over real sockets: formats, bounds, faults, forks, and two real Prometheus servers."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import logging
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar

from rlhf_otel import faults
from rlhf_otel.exporters import endpoint as endpoint_module
from rlhf_otel.exporters.endpoint import Endpoint

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
AS_PROMETHEUS = {"User-Agent": "Prometheus/2.42.0", "X-Prometheus-Scrape-Timeout-Seconds": "10"}


class Steps:
    """A collector of a gauge, a counter, and a histogram with an exemplar; it can fail, or hang."""

    def __init__(self) -> None:
        self.ended = 0.0
        self.error: Exception | None = None
        self.entered = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()

    def collect(self) -> Iterator[Metric]:
        self.entered.release()
        self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        yield GaugeMetricFamily("test_ended", "Whether the run is over.", value=self.ended)
        yield CounterMetricFamily("test_steps", "Steps.", value=7)
        buckets: list[Any] = [
            ("0.5", 1.0, Exemplar({"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}, 0.25, 1_700_000_000.0)),
            ("+Inf", 2.0, None),
        ]
        yield HistogramMetricFamily("test_step_seconds", "Duration.", buckets=buckets, sum_value=1.5)


@pytest.fixture(autouse=True)
def _fresh_faults() -> Iterator[None]:
    faults.reset()
    yield
    faults.reset()


@pytest.fixture
def steps() -> Steps:
    return Steps()


Serve = Callable[..., Endpoint]


@pytest.fixture
def serve(steps: Steps) -> Iterator[Serve]:
    """Starts endpoints that are closed after the test."""
    started: list[Endpoint] = []
    registry = CollectorRegistry()
    registry.register(steps)

    def start(
        port: int = 0, health: Callable[[], tuple[bool, str]] = lambda: (True, ""), **settings: Any
    ) -> Endpoint:
        endpoint = Endpoint("localhost", port, registry, health, **settings)
        started.append(endpoint)
        endpoint.start()
        return endpoint

    yield start
    for endpoint in started:
        endpoint.close()


@contextlib.contextmanager
def connected(endpoint: Endpoint) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("localhost", endpoint.port, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(
        method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    return response, response.read()


def get(
    endpoint: Endpoint, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[int, str, bytes]:
    with connected(endpoint) as connection:
        response, body = ask(connection, path, method, **headers)
        return response.status, response.headers.get("Content-Type", ""), body


def raw(endpoint: Endpoint, request: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", endpoint.port), timeout=10)
    connection.sendall(request)
    return connection


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# Formats


def test_prometheus_text_unless_openmetrics_is_asked_for(serve: Serve) -> None:
    status, content_type, body = get(serve())
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"test_steps_total 7.0" in body
    assert b"trace_id" not in body


def test_openmetrics_carries_the_exemplar(serve: Serve) -> None:
    status, content_type, body = get(serve(), Accept=OPENMETRICS)
    assert status == 200
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    parsed = text_string_to_metric_families(body.decode())  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    bucket = families["test_step_seconds"].samples[0]
    assert bucket.exemplar is not None
    assert bucket.exemplar.labels == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
    assert float(bucket.exemplar.timestamp) == 1_700_000_000.0


@pytest.mark.parametrize("version", ["abc", '"1.0.0"', "1.x", "", "9" * 5000])
def test_an_odd_version_is_the_clients_problem(serve: Serve, version: str) -> None:
    status, _, body = get(serve(), Accept=f"application/openmetrics-text;version={version}")
    assert status == 200
    assert b"test_steps_total 7.0" in body
    assert faults.total() == 0


def test_gzip_when_accepted(serve: Serve) -> None:
    with connected(serve()) as connection:
        response, body = ask(connection, "/metrics", Accept_Encoding="gzip")
        assert response.headers["Content-Encoding"] == "gzip"
        assert b"test_steps_total 7.0" in gzip.decompress(body)
        response, _ = ask(connection, "/metrics")
        assert "Content-Encoding" not in response.headers


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/"])
def test_head_is_get_without_the_body(serve: Serve, path: str) -> None:
    with connected(serve()) as connection:
        _, whole = ask(connection, path)
        response, body = ask(connection, path, "HEAD")
        assert (response.status, body) == (200, b"")
        assert response.headers["Content-Length"] == str(len(whole))
        assert ask(connection, path)[1] == whole


def test_scrapes_are_counted_and_timed(serve: Serve) -> None:
    endpoint = serve()
    get(endpoint)
    get(endpoint, Accept=OPENMETRICS)
    get(endpoint, "/healthz")
    assert endpoint.scrapes == 2
    assert 0 < endpoint.scrape_seconds < 1


# Pages and methods


def test_healthz_well(serve: Serve) -> None:
    assert get(serve(), "/healthz") == (200, "text/plain; charset=utf-8", b"ok")


def test_healthz_with_the_reason(serve: Serve) -> None:
    endpoint = serve(health=lambda: (False, "stalled: no step for 300 s – rank 0"))
    status, content_type, body = get(endpoint, "/healthz")
    assert (status, content_type) == (503, "text/plain; charset=utf-8")
    assert body.decode() == "stalled: no step for 300 s – rank 0"


def test_healthz_that_fails_is_a_fault(serve: Serve) -> None:
    endpoint = serve(health=lambda: 1 // 0)
    assert get(endpoint, "/healthz")[0] == 500
    assert faults.counts()["endpoint"] == 1
    assert get(endpoint)[0] == 200


def test_the_index_links_to_the_pages(serve: Serve) -> None:
    status, content_type, body = get(serve(), "/")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert b'href="/metrics"' in body
    assert b'href="/healthz"' in body
    assert b'href="/stacks"' in body


def test_stacks_as_text(serve: Serve) -> None:
    endpoint = serve(stacks=lambda: 'File "f.py", line 1 in größer')
    status, content_type, body = get(endpoint, "/stacks")
    assert (status, content_type) == (200, "text/plain; charset=utf-8")
    assert body.decode() == 'File "f.py", line 1 in größer'


@pytest.mark.parametrize("settings", [{}, {"stacks": lambda: None}], ids=["nobody has any", "switched off"])
def test_no_stacks(serve: Serve, settings: dict[str, Any]) -> None:
    assert get(serve(**settings), "/stacks")[0] == 404


def test_stacks_are_taken_once_for_a_crowd_and_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "STACKS_AGAIN_S", 3600.0)
    monkeypatch.setattr(endpoint_module, "MOST_OF_STACKS", 3)
    taken: list[int] = []

    def take() -> str:
        taken.append(1)
        return "long text"

    endpoint = serve(stacks=take)
    assert {get(endpoint, "/stacks")[2] for _ in range(5)} == {b"lon"}
    assert len(taken) == 1
    monkeypatch.setattr(endpoint_module, "STACKS_AGAIN_S", 0.0)
    get(endpoint, "/stacks")
    assert len(taken) == 2


def test_stacks_that_fail_are_a_fault(serve: Serve) -> None:
    endpoint = serve(stacks=lambda: str(1 // 0))
    assert get(endpoint, "/stacks")[0] == 500
    assert faults.counts()["endpoint"] == 1
    assert get(endpoint)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics?x=1", 200),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "//example.org", 404),
        ("POST", "/metrics", 405),
        ("DELETE", "/", 405),
        ("OPTIONS", "/metrics", 405),
        ("BREW", "/metrics", 501),
    ],
)
def test_other_paths_and_methods(serve: Serve, method: str, path: str, status: int) -> None:
    assert get(serve(), path, method)[0] == status


def test_a_body_is_not_taken_for_a_request(serve: Serve) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(smuggled), smuggled)
    with raw(serve(), request) as connection:
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                answer += part
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"405" in answer


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n",
        b"GET /metrics\r\n\r\n",
    ],
    ids=["tls", "long-path", "many-headers", "long-header", "version", "empty", "http-0.9"],
)
def test_nonsense_is_refused_and_hurts_nobody(serve: Serve, request_: bytes) -> None:
    endpoint = serve()
    with raw(endpoint, request_) as connection, contextlib.suppress(ConnectionError):
        while connection.recv(65536):
            pass
    assert get(endpoint)[0] == 200
    assert faults.total() == 0


def test_a_connection_is_kept(serve: Serve) -> None:
    with connected(serve()) as connection:
        ask(connection, "/metrics")
        kept = connection.sock
        for path in ("/healthz", "/metrics", "/nowhere", "/"):
            ask(connection, path)
        assert connection.sock is kept


# Ports


def test_the_next_port_is_taken_when_this_one_is_not_free(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    first = serve()
    with caplog.at_level(logging.WARNING, "rlhf_otel"):
        second = serve(first.port)
    assert first.port < second.port <= first.port + 31
    assert second.url == f"http://localhost:{second.port}"
    assert get(second)[0] == get(first)[0] == 200
    assert caplog.text.count(f"port {first.port} is taken: metrics are at port {second.port}") == 1
    assert faults.total() == faults.counts()["endpoint"] == 1


def test_no_port_free_is_one_fault_and_none(serve: Serve) -> None:
    first = serve()
    second = serve(first.port, port_attempts=1)
    assert second.start() is None
    assert second.url is None
    assert faults.counts()["endpoint"] == 2  # one for each start
    second.begin_hold()
    assert second.wait_held(10)
    second.close()


@pytest.mark.parametrize(
    ("host", "port"),
    [("192.0.2.1", 0), ("no such host", 0), ("localhost", 70_000), ("localhost", -1), ("a" * 300, 0)],
)
def test_what_cannot_be_bound_is_a_fault(host: str, port: int) -> None:
    endpoint = Endpoint(host, port, CollectorRegistry(), lambda: (True, ""))
    assert endpoint.start() is None
    assert faults.counts()["endpoint"] == 1
    endpoint.close()


@pytest.mark.parametrize("host", ["", "0.0.0.0", "127.0.0.1"])
def test_hosts(host: str) -> None:
    endpoint = Endpoint(host, 0, CollectorRegistry(), lambda: (True, ""))
    try:
        assert endpoint.start() == f"http://{host if host.startswith('127') else 'localhost'}:{endpoint.port}"
        assert get(endpoint)[0] == 200
    finally:
        endpoint.close()


def test_starting_and_closing_twice(serve: Serve) -> None:
    endpoint = serve()
    assert endpoint.start() == endpoint.url
    port = endpoint.port
    endpoint.close()
    endpoint.close()
    with pytest.raises(ConnectionRefusedError):
        raw(endpoint)
    assert endpoint.start() == f"http://localhost:{port}"
    assert get(endpoint)[0] == 200


def test_closing_is_quick_and_leaves_no_thread(serve: Serve) -> None:
    before = threading.active_count()
    endpoint = serve()
    with raw(endpoint), raw(endpoint, b"GET /met"), connected(endpoint) as connection:
        ask(connection, "/metrics", **AS_PROMETHEUS)
        assert eventually(lambda: threading.active_count() == before + 4)
        began = time.monotonic()
        endpoint.close()
        assert time.monotonic() - began < 1
        assert threading.active_count() == before


def test_it_starts_and_closes_on_any_thread(serve: Serve) -> None:
    found: list[int] = []

    def whole_life() -> None:
        endpoint = serve()
        found.append(get(endpoint)[0])
        endpoint.close()

    thread = threading.Thread(target=whole_life)
    thread.start()
    thread.join(10)
    assert found == [200]


# Many and slow clients


def test_over_the_limit_a_connection_is_refused_at_once(serve: Serve) -> None:
    endpoint = serve(max_connections=2)
    with connected(endpoint) as first, connected(endpoint) as second:
        assert ask(first, "/metrics")[0].status == ask(second, "/metrics")[0].status == 200
        with raw(endpoint) as third:
            answer = third.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert third.recv(1) == b""
        assert endpoint.refused == 1
        assert ask(first, "/metrics")[0].status == 200
    assert eventually(lambda: get(endpoint)[0] == 200)
    assert faults.total() == 0


def test_two_hundred_clients_and_some_slow_ones(serve: Serve) -> None:
    endpoint = serve(request_timeout_s=5)
    start = threading.Barrier(201)
    statuses: list[int] = []

    def client() -> None:
        start.wait(10)
        try:
            statuses.append(get(endpoint)[0])
        except (ConnectionError, http.client.HTTPException):
            statuses.append(0)  # refused, and reset before the answer was read

    threads = [threading.Thread(target=client) for _ in range(200)]
    with contextlib.ExitStack() as stack:
        prometheus = stack.enter_context(connected(endpoint))
        assert ask(prometheus, "/metrics", **AS_PROMETHEUS)[0].status == 200
        for _ in range(5):
            stack.enter_context(raw(endpoint, b"GET /metrics HTTP/1.1\r\nX-Slow: "))
        for thread in threads:
            thread.start()
        start.wait(10)
        for _ in range(20):
            assert ask(prometheus, "/metrics", **AS_PROMETHEUS)[0].status == 200
        for thread in threads:
            thread.join(15)
        assert len(statuses) == 200
        assert set(statuses) <= {200, 503, 0}
        assert statuses.count(200) + endpoint.refused >= 200
        assert statuses.count(200) >= 50
        assert get(endpoint)[0] == 200
    assert faults.total() == 0


def test_a_client_that_dribbles_is_cut_off(serve: Serve) -> None:
    endpoint = serve(request_timeout_s=0.5)
    began = time.monotonic()
    with raw(endpoint, b"GET /metrics HTTP/1.1\r\nX-Slow: ") as connection:
        connection.settimeout(0.1)
        while time.monotonic() - began < 5:
            with contextlib.suppress(TimeoutError):
                try:
                    connection.sendall(b"a")
                    if connection.recv(1) == b"":
                        break
                except ConnectionError:
                    break
    assert 0.4 < time.monotonic() - began < 3
    assert get(endpoint)[0] == 200
    assert faults.total() == 0


def test_only_a_prometheus_may_stay_between_requests(serve: Serve) -> None:
    endpoint = serve(request_timeout_s=0.3)
    with connected(endpoint) as curl, connected(endpoint) as prometheus:
        ask(prometheus, "/metrics", **AS_PROMETHEUS)
        ask(curl, "/metrics", User_Agent="curl/8")
        assert curl.sock.recv(1) == b""
        kept = prometheus.sock
        assert ask(prometheus, "/metrics", **AS_PROMETHEUS)[0].status == 200
        assert prometheus.sock is kept


def test_a_client_that_leaves_midway_is_no_fault(serve: Serve, steps: Steps) -> None:
    endpoint = serve()
    steps.go_on.clear()
    with raw(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n") as connection:
        assert steps.entered.acquire(timeout=5)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset on close
    steps.go_on.set()
    assert get(endpoint)[0] == 200
    assert faults.total() == 0


@pytest.mark.skipif(resource is None, reason="needs POSIX resource limits")
def test_running_out_of_files_is_a_fault_that_passes(serve: Serve) -> None:
    endpoint = serve()
    with socket.socket() as connection, open(os.devnull) as last:  # noqa: PTH123 - a descriptor is wanted
        connection.settimeout(10)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, before[1]))
        try:
            connection.connect(("127.0.0.1", endpoint.port))
            connection.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert eventually(lambda: faults.counts()["endpoint"] > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert connection.recv(64).startswith(b"HTTP/1.1 200 ")
    assert faults.counts()["endpoint"] <= 3


# Faults of collectors


def test_a_raising_collector_costs_its_scrape_alone(
    serve: Serve, steps: Steps, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = serve()
    steps.error = OSError("no such device")  # not to be mistaken for a lost connection
    with caplog.at_level(logging.WARNING, "rlhf_otel"), connected(endpoint) as connection:
        assert ask(connection, "/metrics")[0].status == 500
        assert ask(connection, "/metrics")[0].status == 500
        steps.error = None
        assert ask(connection, "/metrics")[0].status == 200
    assert faults.counts()["exposition"] == 2
    assert caplog.text.count("telemetry fault") == 1
    assert "no such device" in caplog.text
    assert endpoint.scrapes == 1


def test_a_hanging_collector_does_not_pile_up_scrapes(serve: Serve, steps: Steps) -> None:
    endpoint = serve(request_timeout_s=0.3)
    steps.go_on.clear()
    with raw(endpoint, b"GET /metrics HTTP/1.1\r\n\r\n") as first:
        assert steps.entered.acquire(timeout=5)
        assert get(endpoint)[0] == 503
        assert get(endpoint, "/healthz")[0] == 200
        assert faults.counts()["exposition"] == 1
        steps.go_on.set()
        assert first.recv(64).startswith(b"HTTP/1.1 200 ")
    assert get(endpoint)[0] == 200


# Fork


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_leaves_the_port_to_its_parent(serve: Serve) -> None:
    endpoint = serve()
    with connected(endpoint) as connection:
        ask(connection, "/metrics", **AS_PROMETHEUS)
        assert eventually(lambda: endpoint.clients.present() == 1)
        ours = _listening_descriptors(endpoint.port)
        told, telling = os.pipe()
        let, letting = os.pipe()
        child = os.fork()
        if child == 0:
            _tell_and_wait(endpoint, telling, let)
        report = json.loads(os.read(told, 4096))
        try:
            assert len(ours) == 1
            assert report == {"descriptors": [], "url": None, "present": 0, "held": True}
            assert (
                ask(connection, "/metrics", **AS_PROMETHEUS)[0].status == 200
            )  # the child's close() was silent
            endpoint.close()
            again = serve(endpoint.port, port_attempts=1)
            assert again.url is not None
        finally:
            os.write(letting, b".")
            os.waitpid(child, 0)
            for descriptor in (told, telling, let, letting):
                os.close(descriptor)


def _listening_descriptors(port: int) -> list[int]:
    """Descriptors of this process that are sockets bound to ``port``."""
    found = []
    for descriptor in range(3, 256):
        try:
            duplicate = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        with duplicate:
            if duplicate.family == socket.AF_INET and duplicate.getsockname()[1] == port:
                with contextlib.suppress(OSError):
                    duplicate.getpeername()
                    continue
                found.append(descriptor)
    return found


def _tell_and_wait(endpoint: Endpoint, telling: int, let: int) -> None:
    try:
        report = {
            "descriptors": _listening_descriptors(endpoint.port),
            "url": endpoint.url,
            "present": endpoint.clients.present(),
        }
        endpoint.begin_hold()
        report["held"] = endpoint.wait_held(5)
        endpoint.close()
        os.write(telling, json.dumps(report).encode())
        os.read(let, 1)
    finally:
        os._exit(0)


# The end of a run


def test_a_browser_or_curl_holds_nothing_up(serve: Serve) -> None:
    endpoint = serve()
    with connected(endpoint) as curl, connected(endpoint) as browser:
        for connection, user_agent in ((curl, "curl/8.5.0"), (browser, "Mozilla/5.0 (X11; Linux x86_64)")):
            ask(connection, "/metrics", User_Agent=user_agent)
            ask(connection, "/metrics", User_Agent=user_agent)
        assert endpoint.clients.present() == 0
        endpoint.begin_hold()
        began = time.monotonic()
        assert endpoint.wait_held(60)
        assert time.monotonic() - began < 0.1


def test_head_is_no_scrape_of_a_prometheus(serve: Serve) -> None:
    endpoint = serve()
    get(endpoint, method="HEAD", **AS_PROMETHEUS)
    assert endpoint.clients.present() == 0


def test_closing_lets_a_waiting_thread_go(serve: Serve) -> None:
    endpoint = serve()
    with connected(endpoint) as prometheus:
        ask(prometheus, "/metrics", **AS_PROMETHEUS)
        assert eventually(lambda: endpoint.clients.present() == 1)
        endpoint.begin_hold()
        held: list[bool] = []
        waiting = threading.Thread(target=lambda: held.append(endpoint.wait_held(60)))
        waiting.start()
        endpoint.close()
        waiting.join(5)
        assert held == [False]


PROMETHEUS = shutil.which("prometheus")


@pytest.mark.servers
@pytest.mark.skipif(PROMETHEUS is None, reason="the prometheus program is not installed")
def test_two_prometheus_replicas_see_the_end_twice(serve: Serve, steps: Steps, tmp_path: Path) -> None:
    endpoint = serve(request_timeout_s=0.5)  # shorter than the interval, which must not cost the connections
    with contextlib.ExitStack() as stack:
        replicas = [stack.enter_context(prometheus(tmp_path / name, endpoint.port)) for name in ("a", "b")]
        assert eventually(lambda: endpoint.clients.present() == 2, within_s=15)
        assert eventually(lambda: endpoint.scrapes >= 4, within_s=5)
        assert endpoint.clients.present() == 2  # each kept its connection
        steps.ended = 1.0
        endpoint.begin_hold()
        began = time.monotonic()
        assert endpoint.wait_held(20)
        took_s = time.monotonic() - began
        endpoint.close()
        assert 0.9 < took_s < 5
        for port in replicas:
            assert eventually(partial(saw_the_end, port), within_s=5)
    assert faults.total() == 0


@contextlib.contextmanager
def prometheus(folder: Path, target_port: int) -> Iterator[int]:
    """A Prometheus server that scrapes the port each second; its own port."""
    folder.mkdir()
    config = folder / "prometheus.yml"
    target = f"localhost:{target_port}"
    job = {"job_name": "rlhf", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config.write_text(json.dumps({"scrape_configs": [job]}))  # JSON is YAML
    port = free_port()
    command = [str(PROMETHEUS), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.kill()


def saw_the_end(port: int) -> bool:
    """Whether that Prometheus has two samples of the ended run."""
    promql = urllib.parse.urlencode({"query": "sum_over_time(test_ended{job='rlhf'}[1m]) >= 2"})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?{promql}", timeout=5) as response:
        return bool(json.load(response)["data"]["result"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
