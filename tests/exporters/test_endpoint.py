"""What the endpoint answers over real sockets: formats, pages, methods, and the faults of what it asks."""

from __future__ import annotations

import gzip
import logging
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from served import OPENMETRICS, Serve, Steps, ask, connected, get, raw

from rlhf_otel import faults
from rlhf_otel.exporters import endpoint as endpoint_module

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


def test_a_connection_is_kept(serve: Serve) -> None:
    with connected(serve()) as connection:
        ask(connection, "/metrics")
        kept = connection.sock
        for path in ("/healthz", "/metrics", "/nowhere", "/"):
            ask(connection, path)
        assert connection.sock is kept


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
