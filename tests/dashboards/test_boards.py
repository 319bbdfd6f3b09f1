"""Boards as Grafana reads them, without a server: what its linter asks for, and what its SDK can read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_otel import generate
from rlhf_otel.catalogue.metrics import METRIC_BY_NAME, MetricType
from rlhf_otel.catalogue.recorded import RECORDED_BY_NAME
from rlhf_otel.catalogue.run_boards import RUN_BOARDS, board_of
from rlhf_otel.catalogue.signals import SIGNAL_BY_NAME
from rlhf_otel.dashboards import BOARDS
from rlhf_otel.dashboards.asking import panels
from rlhf_otel.dashboards.spec import Scope
from rlhf_otel.generate import grafana
from rlhf_otel.sources.trl_keys import FAMILIES

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "grafana/dashboards").glob("*.json"))
NAMES = re.compile(r"\b(?:rlhf_[a-z0-9_]+|run(?:_[a-z]+)?:[a-z0-9_:]+)\b")
AGGREGATED = ("rate(", "increase(", "changes(", "timestamp(", "max_over_time(")
PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


boards = pytest.mark.parametrize("board", FILES, ids=lambda path: path.stem, indirect=True)


@pytest.fixture
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def expressions(board: dict[str, Any]) -> list[str]:
    asked = [target["expr"] for panel in panels(board) for target in panel["targets"]]
    asked += [annotation["expr"] for annotation in board["annotations"]["list"]]
    asked += [v["query"]["query"] for v in board["templating"]["list"] if v["type"] == "query"]
    return asked


def test_there_is_a_file_for_each_board() -> None:
    assert {path.stem for path in FILES} == {board.uid for board in BOARDS}


@boards
def test_it_can_be_provisioned(board: dict[str, Any]) -> None:
    assert board["id"] is None
    assert re.fullmatch(r"[a-z-]{8,40}", board["uid"])
    assert "__inputs" not in board
    assert board["editable"] is False


@boards
def test_the_sdk_reads_it_and_loses_nothing(board: dict[str, Any]) -> None:
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    for annotation in board["annotations"]["list"]:
        for key in (
            "titleFormat",
            "textFormat",
            "step",
            "useValueForTime",
        ):  # the Prometheus plugin's, not the SDK's
            del annotation[key]
    assert board.pop("id") is None
    assert lost(board, again) == []


def lost(before: Any, after: Any, where: str = "") -> list[str]:
    """Paths of what is not in ``after`` as it was; defaults that were filled in do not count."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [path for key in before for path in lost(before[key], after.get(key), f"{where}.{key}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [path for n, (one, other) in pairs for path in lost(one, other, f"{where}[{n}]")]
    return [] if before == after else [where]


@boards
def test_panels_say_what_they_are(board: dict[str, Any]) -> None:
    found = list(panels(board))
    assert 8 <= len(found) <= 30
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in found:
        assert panel["title"], panel["id"]
        assert len(panel["description"]) > 20, panel["title"]
        assert "good" in panel["description"] or "usual" in panel["description"] or panel["type"] == "stat", (
            panel["title"]
        )
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        assert panel["targets"], panel["title"]


@boards
def test_nothing_lies_upon_anything_else_or_beyond_the_grid(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@boards
def test_the_data_source_can_be_chosen(board: dict[str, Any]) -> None:
    assert board["templating"]["list"][0]["name"] == "datasource"
    for panel in panels(board):
        assert panel["datasource"] == PROMETHEUS
        assert all(target["datasource"] == PROMETHEUS for target in panel["targets"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            assert variable["datasource"] == PROMETHEUS
            assert variable["refresh"] == 2, "on a change of the time range"


@boards
def test_every_query_is_about_the_chosen_job(board: dict[str, Any]) -> None:
    for expression in expressions(board):
        assert (
            'job=~"$job"' in expression
            or "ALERTS{" in expression
            or "label_values(rlhf_run_info, job)" in expression
        )


@boards
def test_all_metrics_and_signals_are_of_the_catalogue(board: dict[str, Any]) -> None:
    for expression in expressions(board):
        for name in NAMES.findall(expression):
            family = re.sub(r"_(bucket|sum|count)$", "", name)
            assert {name, family} & {*METRIC_BY_NAME, *RECORDED_BY_NAME}, f"{name} in {expression}"
        for signal in re.findall(r'signal="([a-z_0-9]+)"', expression):
            assert signal in SIGNAL_BY_NAME, expression


@boards
def test_counters_are_asked_for_their_increase(board: dict[str, Any]) -> None:
    """And never over a range that is shorter than some scrapes. No board judges speed by the rate of steps."""
    for expression in expressions(board):
        names = [name for name in NAMES.findall(expression) if name in METRIC_BY_NAME]
        counted = [name for name in names if METRIC_BY_NAME[name].type is MetricType.COUNTER]
        if counted:
            assert any(function in expression for function in AGGREGATED) or "count(" in expression, (
                expression
            )
        assert not re.search(r"rate\([^)]*\[(?!\$__rate_interval|\$__range)", expression), expression
        assert "rate(rlhf_steps_total" not in expression


def test_generating_from_the_data_gives_the_files() -> None:
    assert [name for name in generate.stale(ROOT) if name.startswith("grafana/")] == []


def test_links_lead_to_boards_that_exist() -> None:
    uids = {board.uid for board in BOARDS}
    for path in FILES:
        for uid in re.findall(r'"/d/([a-z-]+)\?', path.read_text(encoding="utf-8")):
            assert uid in uids
    for label in re.findall(
        r'\\"board\\", \\"([a-z-]+)\\"', (ROOT / "grafana/dashboards/rlhf-fleet.json").read_text()
    ):
        assert label in uids


def test_each_algorithm_has_one_board() -> None:
    known = [algorithm for board in RUN_BOARDS for algorithm in board.algorithms]
    assert len(known) == len(set(known))
    assert set(known) <= {algorithm for family in FAMILIES for algorithm in family.algorithms}
    assert [board_of(name) for name in ("grpo", "dpo", "ppo", "sft", "of our own")] == [
        "rlhf-run", "rlhf-run-preference", "rlhf-run-ppo", "rlhf-run-supervised", "rlhf-run",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("rlhf_step", 'rlhf_step{job="j", run_id="r"}'),
        ('sum(rate(rlhf_phase_seconds_total{scope="local"}[5m]))',
         'sum(rate(rlhf_phase_seconds_total{job="j", run_id="r", rank="0", scope="local"}[5m]))'),
        ('rlhf_run_info{rank="0"}', 'rlhf_run_info{job="j", run_id="r", rank="0"}'),
        ('ALERTS{alertstate="firing"}', 'ALERTS{run_id="r", alertstate="firing"}'),
        ('ALERTS{run_id=~".+"}', 'ALERTS{run_id=~".+"}'),
        ("run_rank:rlhf_local_phase_seconds:rate", 'run_rank:rlhf_local_phase_seconds:rate{job="j", run_id="r", rank="0"}'),
        ("rlhf_step_duration_seconds_bucket", 'rlhf_step_duration_seconds_bucket{job="j", run_id="r"}'),
    ],
)  # fmt: skip
def test_a_scope_is_put_in(written: str, asked: str) -> None:
    assert Scope('job="j", run_id="r"', 'rank="0"')(written) == asked


def test_data_sources_lead_to_each_other() -> None:
    sources = {
        s["uid"]: s
        for s in yaml.safe_load((ROOT / "grafana/provisioning/datasources/rlhf.yaml").read_text())[
            "datasources"
        ]
    }
    exemplars = sources[grafana.PROMETHEUS_UID]["jsonData"]["exemplarTraceIdDestinations"]
    assert exemplars == [{"name": "trace_id", "datasourceUid": grafana.TEMPO_UID}]
    assert (
        sources[grafana.TEMPO_UID]["jsonData"]["tracesToMetrics"]["datasourceUid"] == grafana.PROMETHEUS_UID
    )
    assert sources[grafana.ALERTMANAGER_UID]["type"] == "alertmanager"
    provider = yaml.safe_load((ROOT / "grafana/provisioning/dashboards/rlhf.yaml").read_text())["providers"][
        0
    ]
    assert (
        f"../grafana/dashboards:{provider['options']['path']}" in (ROOT / "deploy/compose.yaml").read_text()
    )


def test_without_the_sdk_everything_else_is_generated() -> None:
    """A training image has no SDK, and generates rules all the same."""
    code = (
        "import sys; sys.modules['grafana_foundation_sdk'] = None\n"
        "import importlib.util as u; found = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name.startswith('grafana_foundation') else found(name, *a)\n"
        "from rlhf_otel import generate; names = generate.files()\n"
        "assert 'alerts/rlhf.rules.yaml' in names and not any(n.startswith('grafana/dashboards') for n in names)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_a_port_that_serves_one_run_after_another_is_one_target(tmp_path: Path) -> None:
    """For some seconds Prometheus knows the target by its old labels and by its new ones."""
    (expression,) = (
        one for one in expressions(read(ROOT / "grafana/dashboards/rlhf-telemetry.json")) if "up{" in one
    )
    target = 'job="rlhf", instance="host:1"'
    series = {
        f'up{{{target}, run_id="before", rank="0"}}': "1 1",
        f'up{{{target}, run_id="now", rank="0"}}': "1 1",
        f'rlhf_process_start_time_seconds{{{target}, run_id="now", rank="0"}}': "7 7",
    }
    asked = expression
    for name, chosen in {"$job": ".+", "$run": "now", "$rank": ".+"}.items():
        asked = asked.replace(name, chosen)
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": asked,
                "eval_time": "15s",
                "exp_samples": [{"labels": '{rank="0", instance="host:1"}', "value": 1}],
            }
        ],
    }
    (tmp_path / "case.yaml").write_text(yaml.safe_dump({"rule_files": [], "tests": [case]}))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "case.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
