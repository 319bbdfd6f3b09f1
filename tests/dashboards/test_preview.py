"""Boards as pictures: what needs no Prometheus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from rlhf_otel.cli import commands
from rlhf_otel.dashboards.asking import Span, filled
from rlhf_otel.errors import BoardError

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.5, "percentunit", "50 %"), (90, "s", "1.5 min"), (0.004, "s", "4 ms"), (2**31, "bytes", "2 GB"),
     (1234, "short", "1.23 K"), (float("nan"), "short", "nan")],
)  # fmt: skip
def test_numbers_are_short(value: float, unit: str, text: str) -> None:
    pytest.importorskip("matplotlib")
    from rlhf_otel.dashboards.drawing import number

    assert number(value, unit) == text


def test_variables_and_times_are_filled_in() -> None:
    text = 'rate(x{run_id="$run", rank=~"$rank"}[$__rate_interval]) + increase(y[$__range])'
    asked = filled(text, {"run": "r", "rank": ".+"}, Span(0, 21600), 20)
    assert asked == 'rate(x{run_id="r", rank=~".+"}[60s]) + increase(y[21600s])'
    assert Span(0, 21600).step_s() == 30
    assert Span(0, 21600).step_s(120) == 300


def test_folded_sections_are_opened_and_nothing_overlaps() -> None:
    pytest.importorskip("matplotlib")
    from rlhf_otel.dashboards.preview import unfolded

    for path in (ROOT / "grafana/dashboards").glob("*.json"):
        panels, _, height = unfolded(json.loads(path.read_text()))
        cells = [
            (x, y + row)
            for panel, y in panels
            for row in range(panel["gridPos"]["h"])
            for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        ]
        assert len(cells) == len(set(cells)), path.stem
        assert max(y for _, y in cells) < height


def test_a_prometheus_that_does_not_answer_is_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(
        commands, ["boards", "preview", "--prometheus", "http://localhost:1", "--out", str(tmp_path)]
    )
    assert isinstance(done.exception, BoardError)
    assert "localhost:1" in str(done.exception)
