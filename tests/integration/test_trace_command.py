"""``rlhf-otel trace`` on a real run in which one reward function was slow once."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny import build_trainer, variety

from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.cli import commands
from rlhf_otel.exporters.journal import read_journal

pytestmark = pytest.mark.usefixtures("strict")

STEPS, SLOW_CALL = 12, 8
calls = 0


def judge(completions: list[str], **_: Any) -> list[float]:
    global calls
    calls += 1
    if calls == SLOW_CALL:
        time.sleep(1.5)
    return [1.0 for _ in completions]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    callback = TelemetryCallback(metrics_port="off", journal=folder / "journal")
    build_trainer(folder, [callback], reward_funcs=[variety, judge], max_steps=STEPS).train()
    return folder / "journal"


def test_the_slowest_step_and_its_phase_are_named(directory: Path) -> None:
    result = CliRunner().invoke(commands, ["trace", str(directory), "--slowest", "1"])

    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{STEPS} steps of 1 rank, run ")
    explained = lines.index("") + 1
    assert lines[explained].startswith(f"step {SLOW_CALL} (generate): ")
    assert lines[explained + 1].split()[:2] == ["reward_function", "judge"]


def test_what_was_in_vain_is_said(directory: Path) -> None:
    steps = [record for record in read_journal(directory) if record["type"] == "step"]
    (ledger,) = (record for record in read_journal(directory) if record["type"] == "ledger")
    in_vain = sum(step.get("wasted_s", {}).get("no_gradient", 0.0) for step in steps)
    share = in_vain / sum(step["rollout_s"] for step in steps)

    output = CliRunner().invoke(commands, ["trace", str(directory)]).output
    said = f"{share:.0%} of rollout time produced no gradient ({in_vain:,.1f} s)."
    assert (said in output.splitlines()) == bool(in_vain)
    assert ledger["wasted_s"].get("no_gradient", 0.0) == pytest.approx(in_vain, abs=1e-3)
    assert sum(ledger["phases_s"].values()) == pytest.approx(
        sum(step["duration_ms"] for step in steps) / 1e3, rel=0.5
    )


def test_steps_are_exported_for_perfetto(directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    result = CliRunner().invoke(commands, ["trace", str(directory), "--steps", "7:8", "--export", str(path)])

    assert result.exit_code == 0, result.output
    events = json.loads(path.read_text())["traceEvents"]
    assert [event["name"] for event in events if event.get("cat") == "step"] == ["step 7", "step 8"]
    judged = [event for event in events if event["name"] == "reward_function judge"]
    assert max(event["dur"] for event in judged) > 1.4e6
    assert any(event["ph"] == "C" and event["name"] == "reward" for event in events)


def test_kept_steps_lie_in_a_file_without_any_server(directory: Path) -> None:
    lines = (directory / "trace-rank0.json").read_text().splitlines()
    events = [json.loads(line.rstrip(",")) for line in lines[1:]]

    kept = {
        event["args"]["step"]: event["args"]["kept_because"] for event in events if event.get("cat") == "step"
    }
    assert kept[1] == "first"
    assert len(kept) < STEPS


def test_a_range_that_is_not_there_says_what_is(directory: Path) -> None:
    result = CliRunner().invoke(commands, ["trace", str(directory), "--steps", "900"])

    assert result.exit_code == 1
    assert "there are 1 to 12" in str(result.exception)


def test_a_step_that_is_in_a_journal_and_in_a_trace_file_counts_once(directory: Path) -> None:
    both = [str(directory), str(directory / "trace-rank0.json")]
    for paths in (both, both[::-1]):
        result = CliRunner().invoke(commands, ["trace", *paths])
        assert result.output.splitlines()[0].startswith(f"{STEPS} steps of 1 rank")
        assert "only the kept steps are known" not in result.output
