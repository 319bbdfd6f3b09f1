"""Settings, rules, targets and answers of servers, from strangers. (The web configuration: tests/protection.)"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from hostile import ANYTHING, SCALARS, TEXTS, fuzzed, mappings
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel import custom_rules, rule_files, settings, yaml_limits
from rlhf_otel.catalogue.rules import RULES
from rlhf_otel.errors import ConfigurationError, ServerError
from rlhf_otel.exporters.file_sd import TargetFile
from rlhf_otel.records import RunIdentity
from rlhf_otel.servers.alertmanager import Alertmanager
from rlhf_otel.servers.prometheus import Prometheus
from rlhf_otel.settings import Settings
from rlhf_otel.top.endpoints import EndpointWatch, targets_in

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
YAML_BYTES = st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))
TAGGED = st.tuples(
    st.sampled_from(
        [
            "int",
            "float",
            "bool",
            "timestamp",
            "binary",
            "null",
            "set",
            "omap",
            "pairs",
            "map",
            "python/name:os",
        ]
    ),
    SCALARS,
).map(lambda pair: f"rules: !!{pair[0]} {json.dumps(pair[1])}\n".encode())


@fuzzed
@given(content=YAML_BYTES | TAGGED)
def test_any_bytes_as_rules_and_settings(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(content)
    for read in (rule_files.load, settings.load):
        with contextlib.suppress(ConfigurationError):
            read(path)


@pytest.mark.parametrize(
    "text", [BOMB, "[" * 100_000, "a: &a [*a]", "a: &a {b: *a}", "x" * (2**20 + 1), "a: " + "[{a: " * 300]
)
@pytest.mark.parametrize("read", [rule_files.load, settings.load])
def test_bombs_are_refused_at_once(read: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        read(path)
    assert len(str(refused.value)) < 10_000


def test_aliases_that_a_person_would_write_are_taken() -> None:
    assert yaml_limits.load("a: &a {b: 1}\nc: *a\nd: {<<: *a, e: 2}") == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": {"b": 1, "e": 2},
    }
    assert yaml_limits.load("") is None


RULE_NAMES = [rule.name for rule in RULES[:8]] + ["Mine"]
RULE = mappings(
    [
        "severity",
        "steps",
        "after_step",
        "inhibited_by",
        "when",
        "class",
        "summary",
        "cause",
        "remedy",
        "source",
    ]
)
WANTED = st.fixed_dictionaries(
    {},
    optional={
        "disable": st.lists(st.sampled_from(RULE_NAMES) | ANYTHING, max_size=3) | ANYTHING,
        "tune": mappings(RULE_NAMES, RULE | ANYTHING) | ANYTHING,
        "add": mappings(RULE_NAMES, RULE | ANYTHING) | ANYTHING,
    },
)


@fuzzed
@given(wanted=WANTED)
def test_any_mapping_as_rules(wanted: dict[str, Any], tmp_path: Path) -> None:
    with contextlib.suppress(ConfigurationError):
        custom_rules.customized(wanted)
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(wanted), encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(ConfigurationError):
        rule_files.load(path)


@fuzzed
@given(given_=mappings(sorted(Settings.model_fields)))
def test_any_mapping_as_settings(given_: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(given_), encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(ConfigurationError):
        settings.load(path)


# --- file_sd


@fuzzed
@given(
    content=st.binary(max_size=100)
    | (st.lists(mappings(["targets", "labels"]) | ANYTHING, max_size=3) | ANYTHING).map(
        lambda said: json.dumps(said).encode("utf-8", "replace")
    )
)
def test_any_file_beside_ours_in_a_directory_of_targets(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "theirs.json").write_bytes(content)
    ours = TargetFile()
    ours.keep(tmp_path, RunIdentity("ours"), "127.0.0.1:1")
    assert (tmp_path / "theirs.json").read_bytes() == content
    assert "http://127.0.0.1:1" in targets_in(tmp_path)
    ours.drop()


# --- what servers answer


class Says(ThreadingHTTPServer):
    """Answers every request with the same body."""

    body = b""
    status = 200


@pytest.fixture(scope="module")
def server() -> Iterator[Says]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            says = self.server
            assert isinstance(says, Says)
            self.send_response(says.status)
            self.send_header("Content-Length", str(len(says.body)))
            self.end_headers()
            self.wfile.write(says.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
            """Nothing."""

    says = Says(("127.0.0.1", 0), Handler)
    thread = Thread(target=says.serve_forever)
    thread.start()
    yield says
    says.shutdown()
    thread.join()
    says.server_close()


LINES = st.lists(
    TEXTS
    | st.sampled_from(
        [
            'rlhf_run_info{run_id="r",rank="0"} 1',
            'rlhf_run_info{run_id="r",rank="x"} 1',
            'rlhf_step{run_id="r"} NaN',
            'rlhf_steps_planned{run_id="r"} +Inf',
            'rlhf_gpu_power_watts{run_id="r"} 1',
            'rlhf_run_end_timestamp_seconds{run_id="r"} 1',
            'rlhf_anomaly_active{run_id="r"} 1',
            'rlhf_anomaly_first_step{run_id="r",rule="a"} NaN',
            'rlhf_phase_seconds_total{run_id="r"} 1',
            "# TYPE rlhf_step",
            'broken{a="',
        ]
    ),
    max_size=6,
).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@fuzzed
@given(body=LINES | st.binary(max_size=100))
def test_any_exposition_in_the_live_view(server: Says, body: bytes) -> None:
    server.body = body
    EndpointWatch(lambda: [f"http://127.0.0.1:{server.server_port}"]).look()


ANSWERS = (
    mappings(["status", "data", "config"])
    | st.fixed_dictionaries({"status": st.just("success"), "data": ANYTHING})
    | st.fixed_dictionaries(
        {
            "status": st.just("success"),
            "data": mappings(
                ["result", "activeTargets", "groups", "alerts", "activeAlertmanagers"], st.lists(ANYTHING)
            ),
        }
    )
    | st.fixed_dictionaries(
        {"config": st.fixed_dictionaries({"original": TEXTS | st.just("route: {routes: 7}")})}
    )
    | ANYTHING
)


@fuzzed
@given(answer=ANSWERS)
def test_any_answer_of_a_server(server: Says, answer: Any) -> None:
    server.body = json.dumps(answer).encode("utf-8", "replace")
    url = f"http://127.0.0.1:{server.server_port}"
    prometheus, alertmanager = Prometheus(url), Alertmanager(url)
    for ask in (
        lambda: prometheus.query("up"),
        prometheus.targets,
        prometheus.alerting_rules,
        lambda: prometheus.firing("a", "b"),
        prometheus.alertmanagers,
        prometheus.time,
        lambda: alertmanager.alert("r"),
        alertmanager.configuration,
        lambda: alertmanager.integrations("a"),
        lambda: alertmanager.group_wait_s({}),
        lambda: alertmanager.delivery(["webhook"], ["a"]),
    ):
        with contextlib.suppress(ServerError):
            ask()
