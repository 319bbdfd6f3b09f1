"""The configurations that docs/scale.md shows are ones that Prometheus accepts, and its arithmetic is right."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from views import grpo_view

from rlhf_otel.catalogue.metrics import MAX_REWARD_FUNCTIONS, MAX_TRAINER_METRICS
from rlhf_otel.exporters.exposition import RunsCollector
from rlhf_otel.generate.prometheus import SAMPLE_LIMIT

PAGE = Path(__file__).parent.parent.parent / "docs" / "scale.md"
CONFIGURATIONS = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.S)
ROWS = re.findall(
    r"^\| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) (MB|GB) \|", PAGE.read_text(), flags=re.M
)


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("number", range(len(CONFIGURATIONS)))
def test_a_configuration_is_accepted(number: int, tmp_path: Path) -> None:
    text = CONFIGURATIONS[number]
    (tmp_path / "prometheus.yml").write_text(text)
    agent = ["--agent"] if "remote_write" in text else []
    done = subprocess.run(
        ["promtool", "check", "config", *agent, str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_is_one_of_each_kind() -> None:
    assert len(CONFIGURATIONS) == 3
    assert [int(row[0].replace(",", "")) for row in ROWS] == [1, 8, 64, 512, 10_000]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_arithmetic(row: tuple[str, ...]) -> None:
    ranks, series, samples = (int(cell.replace(",", "")) for cell in row[:3])
    assert series == 400 + 120 * (ranks - 1) + 5 * ranks
    assert samples == round(series / 15)
    day = series / 15 * 86_400 * 1.5 / {"MB": 1e6, "GB": 1e9}[row[4]]
    assert float(row[3]) == pytest.approx(day, rel=0.15 if ranks == 1 else 0.03)


def test_the_sample_limit_lies_above_every_cap() -> None:
    """Prometheus refuses a scrape above it as a whole, so no run of ours may reach it."""
    view = grpo_view(functions=MAX_REWARD_FUNCTIONS)
    system = view.system._replace(gpus=view.system.gpus * 8, torch=view.system.torch * 8)
    unmapped = {str(number): 1.0 for number in range(MAX_TRAINER_METRICS)}
    full = view._replace(system=system, snapshot=view.snapshot._replace(unmapped=unmapped))
    samples = sum(len(family.samples) for family in RunsCollector(lambda: [full]).collect())
    assert 400 < samples < SAMPLE_LIMIT
