"""The mixin, rendered by jsonnet without the package: the same rules, configured by whoever imports it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf_otel.detection.promql import select

rjsonnet = pytest.importorskip("rjsonnet")

ROOT = Path(__file__).parent.parent.parent
MIXIN = ROOT / "alerts/mixin/mixin.libsonnet"
CONFIG = {
    "selector": 'job="rlhf",cluster="a"',
    "runbooks": "https://wiki/runbooks",
    "boards": "https://grafana",
    "trace": "https://jaeger/trace/{trace_id}?x=1",
    "labels": {"service": "training"},
}


def rendered(field: str = "prometheusAlerts", **config: Any) -> Any:
    code = f"((import '{MIXIN}') + {{ _config+:: {json.dumps(config)} }}).{field}"
    return json.loads(rjsonnet.evaluate_snippet("test", code))


def alerts(content: Any) -> list[dict[str, Any]]:
    return [rule for group in content["groups"] for rule in group["rules"]]


def test_as_it_is_it_holds_the_rules_of_the_repository() -> None:
    ours = alerts(yaml.safe_load((ROOT / "alerts/rlhf.rules.yaml").read_text(encoding="utf-8")))
    theirs = alerts(rendered())
    for one, other in zip(ours, theirs, strict=True):
        for link in ("board_url", "trace_url"):  # without an address no link
            assert link not in other["annotations"]
            one["annotations"].pop(link, None)
        assert one == other


def test_it_holds_the_recording_rules_too() -> None:
    ours = yaml.safe_load((ROOT / "alerts/rlhf.recording.yaml").read_text(encoding="utf-8"))
    assert alerts(ours)
    assert rendered("prometheusRules") == ours


def test_everything_is_configurable() -> None:
    found = alerts(rendered(**CONFIG))
    assert all(alert["labels"]["service"] == "training" for alert in found)
    text = json.dumps(found)
    assert "$(" not in text
    assert "localhost" not in text
    page = next(alert for alert in found if alert["alert"] == "RLHFNonFinite")["annotations"]
    assert page["runbook_url"] == "https://wiki/runbooks/NonFinite.md"
    assert page["board_url"].startswith("https://grafana/d/{{")
    assert "rlhf-run{{ end }}?var-run=" in page["board_url"]
    assert "https://jaeger/trace/{{ . }}?x=1" in page["trace_url"]
    for alert in found:
        series = re.findall(r"(?<![\w:])rlhf_\w+\{[^}]*\}", alert["expr"])
        assert all('job="rlhf",cluster="a"' in each for each in series), alert["alert"]


def test_every_series_that_is_recorded_is_selected() -> None:
    for rule in alerts(rendered("prometheusRules", **CONFIG)):
        series = re.findall(r"(?<![\w:])(?:rlhf_\w+|up)\b(?!\()(?:\{[^}]*\})?", rule["expr"])
        assert series
        assert all('job="rlhf",cluster="a"' in each for each in series), rule


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_what_it_renders(tmp_path: Path) -> None:
    both = rendered(**CONFIG)["groups"] + rendered("prometheusRules", **CONFIG)["groups"]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": both}))
    done = subprocess.run(
        ["promtool", "check", "rules", "rules.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_trace_address_without_a_place_for_the_id_is_refused() -> None:
    with pytest.raises(Exception, match=r"where \{trace_id\} belongs"):
        rendered(trace="https://jaeger")


@pytest.mark.parametrize(
    ("expression", "narrowed"),
    [
        ("rlhf_step > 5", 'rlhf_step{a="b"} > 5'),
        (
            'max by (run_id) (rlhf_x_total{rule="R"}[5m])',
            'max by (run_id) (rlhf_x_total{rule="R",a="b"}[5m])',
        ),
        ("scrape_duration_seconds >= 5", 'scrape_duration_seconds{a="b"} >= 5'),
        ("up == 0 and run:rlhf_state:current == 1", 'up{a="b"} == 0 and run:rlhf_state:current == 1'),
        ('ALERTS{alertname=~"RLHF.*"}', 'ALERTS{alertname=~"RLHF.*"}'),
    ],
)
def test_matchers_are_added_to_series_and_nothing_else(expression: str, narrowed: str) -> None:
    assert select(expression, 'a="b"') == narrowed
    assert select(expression, "") == expression
