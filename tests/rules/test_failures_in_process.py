"""A reward function that raises in a real run has its verdict in process, in the step that it ends."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

import tiny

from rlhf_otel import TelemetryCallback, replay
from rlhf_otel.exporters.journal import read_journal


def test_a_reward_function_that_raises_is_told_in_process_and_in_replay(tmp_path: Path) -> None:
    calls = []

    def judge(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        if len(calls) == 3:
            raise ConnectionError("no answer")
        return [float(len(set(text))) for text in completions]

    callback = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal")
    trainer = tiny.build_trainer(tmp_path, [callback], reward_funcs=[judge], max_steps=4)
    with pytest.raises(ConnectionError):
        trainer.train()
    told = [one for one in read_journal(tmp_path / "journal") if one["type"] == "anomaly"]
    assert [(one["rule"], one["step"]) for one in told if one["severity"] != "info"] == [
        ("RewardFunctionFailing", 3)
    ]
    assert "judge raised in 1" in told[-1]["detail"]
    again = replay.run(replay.open_log(tmp_path / "journal").records)
    assert "RewardFunctionFailing" in {each.anomaly.rule for each in again}
