"""A slow reward function on one of two real ranks, explained by ``rlhf-otel trace`` alone, and by the traces alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from otlp_receiver import http_receiver
from watching import launched, torchrun

from rlhf_otel.cli import commands
from rlhf_otel.exporters.span_tree import trace_id

pytestmark = pytest.mark.slow
STEPS, SLOW_AT = 30, 20
SLOW_LATER_AT = 26
"""Once it is known what is usual."""


def test_the_slow_rank_and_its_function_are_named_before_the_rank_that_waited(tmp_path: Path) -> None:
    variables = {"RLHF_OTEL_METRICS_PORT": "off", "RANK_TEST_PAUSE": f"1:{SLOW_AT}"}
    with launched(tmp_path / "job", torchrun(), STEPS, **variables) as job:
        assert job.wait() == 0, job.log
    (journal,) = (tmp_path / "job").rglob("journal-00000.jsonl")

    result = CliRunner().invoke(commands, ["trace", str(journal.parent), "--slowest", "1"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    said = [line for line in lines[lines.index("") + 1 :] if line]
    assert said[0].startswith(f"step {SLOW_AT} on rank 1 (generate): 2")
    assert said[1].split()[:2] == ["reward_function", "variety"]
    assert said[2].startswith(f"step {SLOW_AT} on rank 0 (generate): 2")
    assert "ranks wait for each other in it" in said[3]


def test_the_trace_shows_the_slow_function_on_its_rank_and_the_other_rank_waiting(tmp_path: Path) -> None:
    with http_receiver() as receiver:
        variables = {
            "RLHF_OTEL_METRICS_PORT": "off",
            "RLHF_OTEL_RUN_ID": "slow",
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
            "RANK_TEST_PAUSE": f"1:{SLOW_LATER_AT}",
        }
        with launched(tmp_path / "job", torchrun(), STEPS, **variables) as job:
            assert job.wait() == 0, job.log
    trace = trace_id("slow", 1, SLOW_LATER_AT).to_bytes(16, "big")
    spans = [got for got in receiver.spans if got.span.trace_id == trace]
    seconds = {
        (got.resource["rlhf.rank"], got.span.name): (
            got.span.end_time_unix_nano - got.span.start_time_unix_nano
        )
        / 1e9
        for got in spans
    }
    assert seconds[1, "rlhf.reward_function"] >= 2.0 > seconds[0, "rlhf.reward_function"]
    assert min(seconds[0, "rlhf.reward"], seconds[0, "rlhf.step"], seconds[1, "rlhf.step"]) >= 1.9
    reasons = {
        got.resource["rlhf.rank"]: got.attributes["rlhf.trace.kept_because"]
        for got in spans
        if got.span.name == "rlhf.step"
    }
    assert set(reasons) == {0, 1}
    assert set(reasons.values()) <= {"slow", "anomaly"}
