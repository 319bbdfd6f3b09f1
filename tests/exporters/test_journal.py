"""The journal: what is written is read again, whatever the disk does and wherever the process dies."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_otel import faults
from rlhf_otel.catalogue.rules import Severity
from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.errors import JournalError
from rlhf_otel.exporters.journal import RETRY_SECONDS, JournalWriter, read_journal
from rlhf_otel.exporters.journal_records import anomaly_record, end_record, run_record, step_record
from rlhf_otel.records import Anomaly, PhaseInterval, RunEnd, RunIdentity, StepRecord
from rlhf_otel.replay.opening import open_log

NAN, INF = math.nan, math.inf


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def written(directory: Path, *records: dict[str, Any], **arguments: Any) -> JournalWriter:
    writer = JournalWriter(directory, **arguments)
    for record in records:
        writer.write(record)
    writer.close()
    return writer


def step(number: int, **values: float) -> dict[str, Any]:
    return {"type": "step", "step": number, "values": values}


def steps(directory: Path) -> list[int]:
    return [record["step"] for record in read_journal(directory) if record["type"] == "step"]


def same(left: object, right: object) -> bool:
    """Equality under which NaN equals NaN, and 1 is neither 1.0 nor True."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and repr(left) == repr(right)


# --- round trips

TEXT = st.text() | st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "\\NaN", "\\\\-Infinity", "nan", "\ud800", "\u2028"]
)
NUMBERS = st.floats() | st.integers(-(2**63), 2**64 - 1) | st.sampled_from([NAN, INF, -INF, -0.0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
RECORDS = st.dictionaries(
    TEXT.filter(lambda key: key not in ("version", "continued")), VALUES, max_size=5
).map(lambda record: record | {"type": "step"})


@settings(max_examples=150, deadline=None)
@given(record=RECORDS)
def test_any_record_comes_back_as_it_was(record: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        written(Path(directory), record)
        (read,) = read_journal(directory)
    assert same(read, record)


@settings(max_examples=150, deadline=None)
@given(records=st.lists(RECORDS, min_size=1, max_size=4), data=st.data())
def test_after_a_crash_at_any_byte_the_whole_lines_are_read(
    records: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        content = written(Path(directory), *records).path.read_bytes()
        cut = data.draw(st.integers(0, len(content)), "cut")
        torn = Path(directory, "journal-00000.jsonl")
        torn.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        written(Path(directory), step(99))  # the next attempt
        read = list(read_journal(directory))
    assert len(read) == whole + 1
    assert all(map(same, read, [*records[:whole], step(99)]))


def test_every_line_is_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    writer = written(tmp_path, step(1, loss=NAN, reward=INF, kl=-INF, entropy=0.5))
    (line,) = writer.path.read_text(encoding="ascii").splitlines()
    assert json.loads(line, parse_constant=refuse)["values"] == {
        "loss": "NaN",
        "reward": "Infinity",
        "kl": "-Infinity",
        "entropy": 0.5,
    }


def test_a_text_that_spells_a_number_stays_text(tmp_path: Path) -> None:
    record = {"type": "end", "reason": "NaN", "note": "\\NaN", "value": NAN, "NaN": 1}
    written(tmp_path, record)
    (read,) = read_journal(tmp_path)
    assert same(read, record)


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    class Mode(Enum):
        FAST = "fast"

    class Tensor:
        def __repr__(self) -> str:
            raise AssertionError("a representation may wait for the GPU")

    config = {
        "path": Path("/out"),
        "mode": Mode.FAST,
        "frozen": MappingProxyType({"a": 1}),
        "betas": (0.9, 0.999),
        "tags": {"x"},
        "tensor": Tensor(),
        "bytes": b"ab",
        7: "number as key",
    }
    numpy = pytest.importorskip("numpy")
    config |= {"f32": numpy.float32(0.5), "f32nan": numpy.float32("nan"), "i64": numpy.int64(3)}
    written(tmp_path, {"type": "step", "config": config})
    (read,) = read_journal(tmp_path)
    expected = {
        "path": "/out",
        "mode": "fast",
        "frozen": {"a": 1},
        "betas": [0.9, 0.999],
        "tags": ["x"],
        "tensor": "<Tensor>",
        "bytes": "<bytes>",
        "7": "number as key",
        "f32": 0.5,
        "f32nan": NAN,
        "i64": 3,
    }
    assert same(read["config"], expected)
    assert faults.total() == 0


# --- records


def test_the_records_of_a_run(tmp_path: Path) -> None:
    identity = RunIdentity(
        "run-7", 2, 1, world_size=8, algorithm="grpo", team="rl", collective_phases=("generate",)
    )
    phases = [
        PhaseInterval("reward", "", 1_002_000_000, 1_010_000_000, -1, 3_000_000, False),
        PhaseInterval("reward_function", "длина", 1_003_000_000, 1_008_000_000, 0, 5_000_000, True),
    ]
    record = StepRecord(
        step=12,
        epoch=0.25,
        kind=StepKind.GENERATE,
        start_ns=1_000_000_000,
        end_ns=1_500_000_000,
        time_ns=1_763_654_400_123_456_000,
        values={"loss": NAN, "reward": 0.5},
        reward_functions={"длина": (0.5, NAN)},
        nonfinite={"loss": 1},
        phases=phases,
    )
    anomaly = Anomaly(
        "NonFinite", Severity.CRITICAL, "loss", NAN, 0.7, None, "value", NAN, 12, 12, 2_000_000_000, "c", "r"
    )
    end = RunEnd(Outcome.FAILED, 3_000_000_000, 12, "RuntimeError: NaN")
    records = [
        run_record(identity, {"beta": 0.04}, time_ns=1_000_000_000),
        step_record(record, trace_id="ab" * 16),
        anomaly_record(anomaly),
        end_record(end),
    ]
    written(tmp_path, *records)
    run, read_step, read_anomaly, read_end = read_journal(tmp_path)
    assert (run["type"], run["version"], run["time"], run["config"]) == ("run", 1, 1.0, {"beta": 0.04})
    assert {name: run[name] for name in RunIdentity.__slots__} == {
        **{name: getattr(identity, name) for name in RunIdentity.__slots__},
        "collective_phases": ["generate"],
    }
    log = open_log(tmp_path)
    assert [found.step for found in log.records] == [12]
    assert log.identity == identity
    assert same(
        read_step,
        {
            "type": "step",
            "step": 12,
            "time": 1_763_654_400.123456,
            "epoch": 0.25,
            "kind": "generate",
            "duration_ms": 500.0,
            "values": {"loss": NAN, "reward": 0.5},
            "reward_functions": {"длина": [0.5, NAN]},
            "nonfinite": {"loss": 1},
            "phases": [["reward", "", 2.0, 8.0, -1], ["reward_function", "длина", 3.0, 5.0, 0, True]],
            "trace_id": "ab" * 16,
        },
    )
    assert same(
        read_anomaly,
        {
            "type": "anomaly",
            "time": 2.0,
            "rule": "NonFinite",
            "severity": "critical",
            "signal": "loss",
            "value": NAN,
            "baseline": 0.7,
            "threshold": None,
            "statistic": "value",
            "observed": NAN,
            "first_step": 12,
            "step": 12,
            "cause": "c",
            "remedy": "r",
            "detail": "",
        },
    )
    assert read_end == {
        "type": "end",
        "time": 3.0,
        "step": 12,
        "outcome": "failed",
        "reason": "RuntimeError: NaN",
    }


# --- files

RUN = run_record(RunIdentity("run-1"), {}, time_ns=0)


def test_files_rotate_by_size_and_read_as_one(tmp_path: Path) -> None:
    records = [RUN, *(step(number, loss=number / 7) for number in range(100))]
    written(tmp_path, *records, max_bytes=1000)
    files = sorted(tmp_path.iterdir())
    assert len(files) > 5
    assert files[0].name == "journal-00000.jsonl"
    assert files[-1].name == f"journal-{len(files) - 1:05d}.jsonl"
    assert all(file.stat().st_size <= 1000 for file in files)
    assert list(read_journal(tmp_path)) == records


def test_every_file_tells_whose_it_is(tmp_path: Path) -> None:
    written(tmp_path, RUN, *(step(number) for number in range(100)), max_bytes=1000)
    for file in tmp_path.iterdir():
        assert next(read_journal(file))["run_id"] == "run-1"


def test_a_record_larger_than_a_file_gets_one_of_its_own(tmp_path: Path) -> None:
    records = [step(1), step(2) | {"note": "x" * 5000}, step(3)]
    written(tmp_path, *records, max_bytes=1000)
    assert list(read_journal(tmp_path)) == records


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    written(tmp_path, RUN, *(step(number) for number in range(200)), max_bytes=1000, max_files=3)
    assert len(list(tmp_path.iterdir())) == 3
    first, *rest = read_journal(tmp_path)
    assert first["run_id"] == "run-1"
    assert [record["step"] for record in rest][-1] == 199


def test_a_new_attempt_opens_the_next_file(tmp_path: Path) -> None:
    written(tmp_path, RUN | {"attempt": 1}, step(1))
    before = (tmp_path / "journal-00000.jsonl").read_bytes()
    written(tmp_path, RUN | {"attempt": 2}, step(2))
    assert (tmp_path / "journal-00000.jsonl").read_bytes() == before
    assert (tmp_path / "journal-00001.jsonl").exists()
    assert [record.get("attempt", record.get("step")) for record in read_journal(tmp_path)] == [1, 1, 2, 2]


def test_files_are_read_by_number_not_by_name(tmp_path: Path) -> None:
    for number in (99_999, 100_000, 9):
        (tmp_path / f"journal-{number:05d}.jsonl").write_text(json.dumps(step(number)) + "\n")
    written(tmp_path, step(100_001))
    assert steps(tmp_path) == [9, 99_999, 100_000, 100_001]


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "journal-00000.jsonl.bak").write_text("garbage")
    written(tmp_path, step(1))
    assert steps(tmp_path) == [1]


def test_two_writers_do_not_share_a_file(tmp_path: Path) -> None:
    one, two = JournalWriter(tmp_path), JournalWriter(tmp_path)
    one.write(step(1))
    two.write(step(2))
    one.write(step(3))
    assert one.path != two.path
    assert sorted(steps(tmp_path)) == [1, 2, 3]


def test_no_file_before_the_first_record(tmp_path: Path) -> None:
    written(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_is_written_can_be_read_while_the_run_goes_on(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    for number in range(3):
        writer.write(step(number))
        assert steps(tmp_path) == list(range(number + 1))
    assert writer.bytes_written == writer.path.stat().st_size
    assert writer.dropped == 0


# --- what disks do


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    clock = Clock()
    writer = JournalWriter(tmp_path / "file" / "journal", clock=clock)
    for number in range(10):
        writer.write(step(number))
    assert writer.dropped == 10
    assert writer.bytes_written == 0
    assert faults.counts()["journal"] == 1  # one attempt in 30 s
    (tmp_path / "file").unlink()
    clock.now += RETRY_SECONDS
    writer.write(step(10))
    assert writer.dropped == 10
    assert steps(tmp_path / "file" / "journal") == [10]


@pytest.fixture
def full_disk() -> Iterator[Callable[[int | None], None]]:
    """A limit on file size acts as a full disk does: a write is cut short, and the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))

    yield limit
    limit(None)


@pytest.mark.parametrize("room", [0, 1, 40, 150, 333, 400])
def test_a_full_disk_loses_records_and_tears_none(
    tmp_path: Path, full_disk: Callable[[int | None], None], room: int
) -> None:
    clock = Clock()
    writer = JournalWriter(tmp_path, clock=clock)
    full_disk(room)
    for number in range(20):
        writer.write(step(number, loss=0.5))
        clock.now += 1
    full_disk(None)
    lost = writer.dropped
    assert 0 < lost <= 20
    assert faults.counts()["journal"] == 1
    clock.now += RETRY_SECONDS
    for number in range(20, 25):
        writer.write(step(number, loss=0.5))
    assert steps(tmp_path) == [*range(20 - lost), *range(20, 25)]
    assert writer.dropped == lost
    assert writer.bytes_written == sum(file.stat().st_size for file in tmp_path.iterdir())


def test_a_disk_that_stays_full_does_not_fill_the_directory(
    tmp_path: Path, full_disk: Callable[[int | None], None]
) -> None:
    clock = Clock()
    writer = JournalWriter(tmp_path, clock=clock)
    writer.write(RUN)
    full_disk(writer.path.stat().st_size + 20)
    for number in range(50):
        writer.write(step(number, loss=0.5))
        clock.now += RETRY_SECONDS
    full_disk(None)
    assert len(list(tmp_path.iterdir())) == 1
    clock.now += RETRY_SECONDS
    writer.write(step(50))
    assert list(read_journal(tmp_path)) == [RUN, step(50)]


def test_the_run_record_that_a_full_disk_lost_heads_the_next_file(
    tmp_path: Path, full_disk: Callable[[int | None], None]
) -> None:
    clock = Clock()
    written(tmp_path, RUN | {"attempt": 1}, step(1))
    writer = JournalWriter(tmp_path, clock=clock)
    full_disk(10)
    writer.write(RUN | {"attempt": 2})
    full_disk(None)
    clock.now += RETRY_SECONDS
    writer.write(step(2))
    assert [record.get("attempt", record.get("step")) for record in read_journal(tmp_path)] == [1, 1, 2, 2]


@pytest.mark.parametrize("whole_directory", [False, True])
def test_a_deleted_journal_is_begun_anew(tmp_path: Path, whole_directory: bool) -> None:
    directory = tmp_path / "journal"
    writer = JournalWriter(directory)
    writer.write(RUN)
    writer.write(step(1))
    first = writer.path
    if whole_directory:
        shutil.rmtree(directory)
    else:
        first.unlink()
    writer.write(step(2))
    assert list(read_journal(directory)) == [RUN, step(2)]
    assert writer.path != first
    assert faults.counts()["journal"] == 1


@pytest.mark.parametrize("kind", ["step", "run"])
def test_a_record_that_cannot_be_encoded_costs_only_itself(tmp_path: Path, kind: str) -> None:
    loop: dict[str, Any] = {"type": kind, "version": 1}
    loop["values"] = loop
    writer = written(tmp_path, loop, step(1), loop, step(3))
    assert steps(tmp_path) == [1, 3]
    assert writer.dropped == 2
    assert faults.counts()["journal"] == 2


def test_after_close_records_are_dropped_and_nothing_is_opened(tmp_path: Path) -> None:
    writer = written(tmp_path, step(1))
    writer.write(step(2))
    writer.close()
    assert writer.dropped == 1
    assert steps(tmp_path) == [1]


def test_close_does_not_wait_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hang, entered, synced = threading.Event(), threading.Event(), threading.Event()

    def fsync(fd: int) -> None:
        entered.set()
        hang.wait(10)
        synced.set()

    writer = JournalWriter(tmp_path)
    writer.write(step(1))
    monkeypatch.setattr(os, "fsync", fsync)
    writer.close(timeout_s=0.01)
    assert entered.wait(5)
    assert not synced.is_set()
    hang.set()


# --- what cannot be read


@pytest.mark.parametrize("name", ["absent", "absent/journal-00000.jsonl", "empty"])
def test_a_path_without_a_journal_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalError, match=name.split("/")[0]):
        read_journal(tmp_path / name)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[1]",
        b"{}",
        b'{"type":7}',
        b'{"type":"step"',
        b"\xff\xfe",
        b"",
        b"\0" * 8,
        b"[" * 100_000,
        b'{"type":"run","version":2}',
        b'{"type":"run"}',
    ],
    ids=lambda line: repr(line[:12]),
)
def test_garbage_within_a_file_is_named_with_file_and_line(tmp_path: Path, line: bytes) -> None:
    file = tmp_path / "journal-00000.jsonl"
    file.write_bytes(b'{"type":"step"}\n' + line + b'\n{"type":"step"}\n')
    records = read_journal(tmp_path)
    assert next(records) == {"type": "step"}
    with pytest.raises(JournalError, match=r"journal-00000\.jsonl, line 2"):
        deque(records, maxlen=0)


@pytest.mark.parametrize("tail", [b"{", b'{"type":"st', b'{"type":"step"}', b"\0" * 100, b'{"ty\0\0\0'])
def test_a_torn_last_line_is_left_out(tmp_path: Path, tail: bytes) -> None:
    file = tmp_path / "journal-00000.jsonl"
    file.write_bytes(b'{"type":"step"}\n' + tail)
    assert list(read_journal(file)) == [{"type": "step"}]


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a journal, and no newline")
    with pytest.raises(JournalError, match=r"notes\.txt, line 1"):
        list(read_journal(file))


def test_unknown_types_of_record_are_passed_on(tmp_path: Path) -> None:
    written(tmp_path, {"type": "profile", "path": "x"})
    assert list(read_journal(tmp_path)) == [{"type": "profile", "path": "x"}]
