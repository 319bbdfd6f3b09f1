"""From its port to the end of a run: an endpoint that starts, closes, is forked, and waits for real Prometheus servers."""

from __future__ import annotations

import contextlib
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
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from served import AS_PROMETHEUS, Serve, Steps, ask, connected, eventually, get, raw

from rlhf_otel import faults
from rlhf_otel.exporters.endpoint import Endpoint

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
    before = set(threading.enumerate())  # some may be on their way out
    endpoint = serve()
    with raw(endpoint), raw(endpoint, b"GET /met"), connected(endpoint) as connection:
        ask(connection, "/metrics", **AS_PROMETHEUS)
        assert eventually(lambda: len(set(threading.enumerate()) - before) == 4)
        began = time.monotonic()
        endpoint.close()
        assert time.monotonic() - began < 1
        assert not set(threading.enumerate()) - before


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
