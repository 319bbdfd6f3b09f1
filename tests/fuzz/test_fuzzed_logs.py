"""Logs to replay, to report and to explain, from strangers: what is wrong with them is told by an error of ours."""

from __future__ import annotations

import contextlib
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hostile import ANYTHING, NUMBERS, SCALARS, TEXTS, damaged, fuzzed, mappings
from hypothesis import given
from hypothesis import strategies as st

from rlhf_otel.errors import RlhfOtelError
from rlhf_otel.exporters.earlier_attempt import lost_seconds
from rlhf_otel.exporters.journal_records import VERSION
from rlhf_otel.replay import open_log, run
from rlhf_otel.report.reading import read as read_story
from rlhf_otel.report.writing import text_of
from rlhf_otel.slow_steps.reading import read_steps
from rlhf_otel.top.journals import JournalWatch

DATA = Path(__file__).parent.parent / "data"


def read_all(path: Path) -> None:
    """Everything that reads logs."""
    with contextlib.suppress(RlhfOtelError):
        run(open_log(path).records)
    with contextlib.suppress(RlhfOtelError):
        story = read_story(path)
        text_of([story], "markdown")
    with contextlib.suppress(RlhfOtelError):
        read_steps(path)


@pytest.mark.parametrize(
    "name",
    ["trainer_state.json", "log.jsonl", "log.csv", "events.out.tfevents.1", "run-a.wandb", "journal-00000.jsonl",
     "trace-rank0.json", "no-suffix"],
)  # fmt: skip
@fuzzed
@given(
    content=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace"))
)
def test_any_bytes(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    read_all(path)


KEYS = ["step", "global_step", "_step", "epoch", "loss", "reward", "kl", "time", "_timestamp", "timestamp", "data",
        "entropy", "grad_norm", "completions/mean_length", "rewards/a/mean", "eval_reward", "num_tokens"]  # fmt: skip
ROWS = mappings(KEYS, ANYTHING | NUMBERS)


@fuzzed
@given(
    rows=st.lists(ROWS | ANYTHING, max_size=6),
    key=st.sampled_from(["log_history", "data", ""]),
    more=mappings(["global_step", "max_steps", "trial_params"]),
)
def test_any_log_dicts(rows: list[Any], key: str, more: dict[str, Any], tmp_path: Path) -> None:
    state = tmp_path / "trainer_state.json"
    state.write_text(json.dumps({**more, key: rows} if key else rows))
    read_all(state)
    lines = tmp_path / "log.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read_all(lines)
    verl = tmp_path / "verl.jsonl"
    verl.write_text(
        "".join(json.dumps({"step": number, "data": row}) + "\n" for number, row in enumerate(rows))
    )
    read_all(verl)


CELLS = st.lists(st.lists(SCALARS.map(str) | TEXTS | st.sampled_from(KEYS), max_size=5), max_size=5)


@fuzzed
@given(cells=CELLS, separator=st.sampled_from([",", ";", "\t", '",', "\r\n"]))
def test_any_table(cells: list[list[str]], separator: str, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\n".join(separator.join(row) for row in cells), encoding="utf-8", errors="replace")
    read_all(path)


RECORD_KEYS = {
    "step": ["step", "time", "duration_ms", "kind", "epoch", "values", "phases", "reward_functions", "unmapped",
             "nonfinite", "reward_histograms"],
    "run": ["version", "run_id", "time", "rank", "attempt", "continued", "config", "environment", "algorithm",
            "collective_phases", "planned_steps"],
    "end": ["outcome", "step", "time", "reason"],
    "anomaly": ["rule", "step", "severity", "value", "first_step", "state", "signal", "detail"],
    "evaluation": ["step", "values"],
    "checkpoint": ["step", "path", "time"],
    "checkpoint_analysis": ["step", "findings", "health"],
    "ledger": ["phases", "waste", "seconds"],
    "epoch": ["epoch", "values"],
    "reward_model": ["step", "values"],
    "action": ["rule", "action", "outcome", "step"],
    "health": ["step", "scores"],
}  # fmt: skip
GOOD = {
    "run": {"version": VERSION, "run_id": "r", "time": 1.0},
    "step": {"step": 1, "time": 2.0, "duration_ms": 5.0, "kind": "generate", "values": {"loss": 1.0}},
}
RECORDS = st.sampled_from(sorted(RECORD_KEYS)).flatmap(
    lambda kind: mappings(RECORD_KEYS[kind]).map(lambda said: {"type": kind, **GOOD.get(kind, {}), **said})
)


@fuzzed
@given(records=st.lists(RECORDS, max_size=5), begins=st.booleans())
def test_any_records_of_a_journal(records: list[dict[str, Any]], begins: bool, tmp_path: Path) -> None:
    said = [{"type": "run", **GOOD["run"]}, *records] if begins else records
    (tmp_path / "journal-00000.jsonl").write_text("".join(json.dumps(record) + "\n" for record in said))
    read_all(tmp_path)
    lost_seconds(tmp_path, "r", 1.0)
    JournalWatch(tmp_path).look()


EVENT_KEYS = ["name", "ph", "cat", "ts", "dur", "pid", "tid", "args"]
EVENTS = mappings(
    EVENT_KEYS, SCALARS | mappings(["step", "kind", "kept_because", "phase", "detail", "parent"], SCALARS)
)


@fuzzed
@given(
    events=st.lists(EVENTS | ANYTHING, max_size=4),
    whole=st.booleans(),
    cat=st.sampled_from(["step", "phase"]),
)
def test_any_trace_file(events: list[Any], whole: bool, cat: str, tmp_path: Path) -> None:
    typed = [{**event, "cat": cat} if isinstance(event, dict) else event for event in events]
    path = tmp_path / "trace-rank0.json"
    path.write_text(
        json.dumps({"traceEvents": typed})
        if whole
        else "[\n" + "".join(json.dumps(event) + ",\n" for event in typed)
    )
    with contextlib.suppress(RlhfOtelError):
        read_steps(path)


REAL = sorted((DATA / "replay").glob("*.gz"))


@pytest.mark.parametrize("real", REAL, ids=lambda path: path.stem)
@fuzzed
@given(data=st.data())
def test_real_logs_with_damage(real: Path, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / real.stem
    path.write_bytes(data.draw(damaged(gzip.decompress(real.read_bytes()))))
    read_all(path)
