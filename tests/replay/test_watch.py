"""Logs that are still growing: what is new is judged once, as it comes, until the run ends."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from rlhf_otel.catalogue.spans import Outcome, StepKind
from rlhf_otel.cli import commands
from rlhf_otel.errors import RlhfOtelError
from rlhf_otel.exporters.journal import JournalWriter
from rlhf_otel.exporters.journal_records import end_record, run_record, step_record
from rlhf_otel.records import RunEnd, RunIdentity, StepRecord
from rlhf_otel.replay import open_log
from rlhf_otel.replay.following import Following, LogReplacedError

NAN = float("nan")
PATIENCE_S = 60.0


class Script(Following):
    """Instead of pausing, does what happens next; the end comes after the last event."""

    def __init__(self, *events: Callable[[], object]) -> None:
        super().__init__(0.0)
        self.events = list(events)

    def wait(self) -> bool:
        if not self.events:
            self.stop.set()
            return False
        self.events.pop(0)()
        return True


def steps_of(path: Path, following: Following) -> list[int]:
    return [record.step for record in open_log(path, following).records]


def row(step: int, loss: float = 0.5) -> str:
    return json.dumps({"step": step, "loss": loss}) + "\n"


def append(path: Path, text: str) -> Callable[[], object]:
    def event() -> None:
        with path.open("a") as file:
            file.write(text)

    return event


def replaced(path: Path, text: str) -> Callable[[], object]:
    """As a careful program rewrites a file: beside it, then renamed."""

    def event() -> None:
        beside = path.with_suffix(".new")
        beside.write_text(text)
        beside.replace(path)

    return event


# --- JSON Lines and CSV


def test_lines_are_read_once_and_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(row(1))
    third = row(3)
    script = Script(append(path, row(2) + third[:7]), append(path, third[7:]), append(path, row(4)))
    assert steps_of(path, script) == [1, 2, 3, 4]


def test_csv_grows(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n")
    assert steps_of(path, Script(append(path, "2,0.5\n3,"), append(path, "nan\n"))) == [1, 2, 3]


def test_a_file_that_is_rewritten_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(row(1) + row(2))
    assert steps_of(path, Script(replaced(path, row(1) + row(2) + row(3)))) == [1, 2, 3]


def test_a_file_that_becomes_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(row(1) + row(2))
    with pytest.raises(LogReplacedError):
        steps_of(path, Script(replaced(path, row(1, 0.7) + row(2))))


# --- trainer states


def state(count: int, ended: bool = False) -> str:
    history: list[dict[str, Any]] = [{"step": i, "loss": NAN if i == 2 else 0.5} for i in range(1, count + 1)]
    summary = [{"step": count, "train_runtime": 9.0, "train_loss": 0.5}] if ended else []
    return json.dumps({"log_history": history + summary}, indent=1)


def test_a_trainer_state_grows_by_being_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(state(2))
    half = state(4)[:50]
    script = Script(
        lambda: path.write_text(half),  # while it is being written
        lambda: path.write_text(state(4)),
        path.unlink,
        lambda: path.write_text(state(5)),
    )
    assert steps_of(path, script) == [1, 2, 3, 4, 5]


def test_a_trainer_state_ends_with_the_summary_of_training(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(state(2))
    script = Script(lambda: path.write_text(state(3, ended=True)), lambda: pytest.fail("read on"))
    assert steps_of(path, script) == [1, 2, 3]


def test_newer_checkpoints_of_an_output_directory_are_followed(tmp_path: Path) -> None:
    def save(step: int) -> None:
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state(step))

    save(2)
    assert steps_of(tmp_path, Script(lambda: save(9), lambda: save(12))) == list(range(1, 13))


# --- trackers


def test_event_files_grow(board: Path) -> None:
    file = next(board.iterdir())
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    half = steps_of(board, Script())
    assert steps_of(board, Script(lambda: file.write_bytes(whole))) == list(range(1, 49))
    file.write_bytes(whole)
    assert half == list(range(1, half[-1] + 1))


def test_a_wandb_file_grows_until_its_run_exits(wandb_run: Path) -> None:
    whole = wandb_run.read_bytes()
    wandb_run.write_bytes(whole[: len(whole) // 2])
    script = Script(lambda: wandb_run.write_bytes(whole), lambda: pytest.fail("read on"))
    assert steps_of(wandb_run, script) == list(range(1, 49))


# --- journals


def a_step(number: int, loss: float = 0.5) -> dict[str, Any]:
    second = 10**9
    nonfinite = {"loss": 1} if loss != loss else {}
    moment = 1_700_000_000 * second + number * second
    values = {"loss": loss, "step_duration": 1.0}
    return step_record(
        StepRecord(number, 0.0, StepKind.GENERATE, 0, second, moment, values, nonfinite=nonfinite)
    )


def begin(run_id: str, attempt: int = 1) -> dict[str, Any]:
    return run_record(RunIdentity(run_id=run_id, attempt=attempt, algorithm="grpo"), {})


def end(step: int, outcome: Outcome = Outcome.FINISHED) -> dict[str, Any]:
    return end_record(RunEnd(outcome, 1, step))


def write(writer: JournalWriter, *records: dict[str, Any]) -> Callable[[], object]:
    def event() -> None:
        for record in records:
            writer.write(record)

    return event


def test_a_journal_grows_over_files_until_the_run_ends(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, max_bytes=1500)
    write(writer, begin("a"), a_step(1))()
    grown = [write(writer, a_step(number)) for number in range(2, 30)]
    script = Script(*grown, write(writer, end(29)))
    log = open_log(tmp_path, script)
    assert [record.step for record in log.records] == list(range(1, 30))
    assert len(list(tmp_path.iterdir())) > 2
    assert log.end is not None
    assert log.end.step == 29


def test_a_run_that_was_resumed_is_followed_beyond_its_first_end(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    write(writer, begin("a"), a_step(1), end(1, Outcome.INTERRUPTED), begin("a", 2), a_step(2))()
    script = Script(write(writer, a_step(3), end(3)), lambda: pytest.fail("read on"))
    assert steps_of(tmp_path, script) == [1, 2, 3]


def test_an_older_run_in_the_same_journal_is_left_out(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    write(writer, begin("old"), a_step(1), a_step(2), end(2), begin("new"), a_step(1))()
    script = Script(write(writer, a_step(2), a_step(3), end(3)), lambda: pytest.fail("read on"))
    log = open_log(tmp_path, script)
    assert [record.step for record in log.records] == [1, 2, 3]
    assert log.identity.run_id == "new"


# --- the command


def watch(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["watch", *map(str, arguments), "--interval", "0.01"])


def test_exit_codes(tmp_path: Path) -> None:
    healthy, broken = JournalWriter(tmp_path / "healthy"), JournalWriter(tmp_path / "broken")
    write(healthy, begin("a"), a_step(1), end(1))()
    write(broken, begin("a"), a_step(1, NAN), end(1, Outcome.FAILED))()
    assert watch(tmp_path / "healthy").exit_code == 0
    found = watch(tmp_path / "broken")
    assert found.exit_code == 3
    assert "CRITICAL NonFinite, step 1" in found.stdout
    assert "the run failed at step 1: 1 anomaly" in found.stderr
    absent = watch(tmp_path / "absent")
    assert absent.exit_code == 1
    assert isinstance(absent.exception, RlhfOtelError)


def test_idle_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(row(1))
    done = watch(path, "--idle", "0.05")
    assert done.exit_code == 0
    assert "no longer watched at step 1: 0 anomalies" in done.stderr


class Watching:
    """The command in a process of its own."""

    def __init__(self, path: Path, *options: str) -> None:
        code = "from rlhf_otel.cli import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-uc", code, "watch", str(path), "--interval", "0.05", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.read = {self.process.stdout: b"", self.process.stderr: b""}

    def until(self, text: str) -> None:
        """Wait until it said so."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert time.monotonic() < deadline, f"said only: {self.said}"
            ready, _, _ = select.select(list(self.read), [], [], 1.0)
            for stream in ready:
                assert stream is not None
                self.read[stream] += os.read(stream.fileno(), 65536)

    @property
    def said(self) -> str:
        return b"".join(self.read.values()).decode()

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE_S)

    def __enter__(self) -> Watching:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in self.read:
            if stream is not None:
                stream.close()


def test_anomalies_are_told_as_they_come_and_the_end_of_the_run_ends_it(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    write(writer, begin("a"), a_step(1))()
    with Watching(tmp_path, "--format", "json") as watching:
        watching.until("watching")
        write(writer, a_step(2, NAN))()
        watching.until('"rule": "NonFinite"')  # while the run goes on
        assert watching.process.poll() is None
        write(writer, a_step(3), end(3))()
        watching.until("the run finished at step 3: 1 anomaly")
        assert watching.exit_code() == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_what_was_found(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "log.jsonl"
    path.touch()  # just begun
    with Watching(path) as watching:
        append(path, row(1) + row(2, NAN))()
        watching.until("CRITICAL NonFinite, step 2")
        watching.process.send_signal(number)
        watching.until("no longer watched at step 2: 1 anomaly")
        assert watching.exit_code() == 3
