"""What is no log, or only half of one: an error that says what to do, and never silence that reads as health."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from replay_data import Observed

from rlhf_otel.cli import commands
from rlhf_otel.errors import JournalError, ReplayError, RlhfOtelError
from rlhf_otel.replay import open_log, run


def message(path: Path) -> str:
    """What is said of a path that cannot be replayed."""
    with pytest.raises(RlhfOtelError) as error:
        run(open_log(path).records)
    assert str(path.parent) in str(error.value)
    return str(error.value)


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def test_nothing_there(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "absent.json")


def test_an_empty_directory_is_told_what_could_be_in_it(tmp_path: Path) -> None:
    said = message(tmp_path / ".")
    assert "trainer_state.json" in said
    assert "journal" in said


def test_a_directory_above_output_directories_is_told_which(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name / "checkpoint-5").mkdir(parents=True)
        (tmp_path / name / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (tmp_path / "other").mkdir()
    said = message(tmp_path / ".")
    assert f"Runs are in {tmp_path / 'first'}, {tmp_path / 'second'}" in said


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "trainer_state.json").touch()
    assert "is empty" in message(tmp_path / "trainer_state.json")


def test_a_trainer_state_that_was_cut_off(trainer_state: Path) -> None:
    whole = trainer_state.read_bytes()
    trainer_state.write_bytes(whole[: len(whole) // 2])
    assert "cut off?" in message(trainer_state)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{\n "name": "package"\n}', "no log_history"),
        ('{"log_history": 7}', "no log_history"),
        ("[1, 2, 3]", "entry 1 is 1, not a log dict"),
        ('[{"loss": 1}, null]', "entry 2 is None, not a log dict"),
        ("[" * 200_000, "not JSON"),
    ],
)
def test_json_of_something_else(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(content)
    assert said in message(path)


def test_json_lines_name_the_line_at_fault(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": \n{"step": 3, "loss": 0.5}\n')
    assert "line 2: not JSON" in message(path)
    path.write_text('{"step": 1, "loss": 0.5}\n[2]\n')
    assert "line 2: [2] is no object" in message(path)


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "lo')
    assert [found.rule for found in run(open_log(path).records)] == ["NonFinite"]


@pytest.mark.parametrize("content", ["name,colour\na,red\nb,blue\n", "temperature,pressure\n1,2\n3,4\n"])
def test_columns_that_nobody_knows_are_no_healthy_run(content: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    done = command("replay", path)
    assert done.exit_code == 1
    assert "no training step" in str(done.exception)


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("temperature,pressure\n1,2\n")
    with pytest.raises(ReplayError, match=r"none of its keys is known \(temperature, pressure\)"):
        commands.main(["replay", str(path)], standalone_mode=False)


def test_a_trainer_state_before_the_first_log_is_no_healthy_run(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text('{"log_history": [], "global_step": 5}')
    with pytest.raises(ReplayError, match="no training steps yet"):
        commands.main(["replay", str(path)], standalone_mode=False)


def test_unknown_columns_beside_known_ones_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("step,loss,my_metric\n1,0.5,NaN\n2,0.5,1\n")
    done = command("replay", path)
    assert done.exit_code == 0
    assert "NaN or infinite in keys that no rule watches: my_metric (1 rows)" in done.stdout
    assert "Not known, so judged by no rule: my_metric" in done.stdout


def test_binary_files(tmp_path: Path) -> None:
    for name in ("model.safetensors", "noise.csv", "events.out.tfevents.1", "run-a.wandb"):
        path = tmp_path / name
        path.write_bytes(os.urandom(64) + b"\0" * 64)
        done = command("replay", path)
        assert done.exit_code == 1, name
        assert isinstance(done.exception, RlhfOtelError), name


def test_a_damaged_wandb_file_names_the_place(wandb_run: Path) -> None:
    data = bytearray(wandb_run.read_bytes())
    data[len(data) // 2] ^= 0xFF
    wandb_run.write_bytes(data)
    assert "damaged at byte" in message(wandb_run)


def test_a_torn_wandb_file_and_torn_events_are_read_as_far_as_they_go(wandb_run: Path, board: Path) -> None:
    for path in (wandb_run, next(board.iterdir())):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 9 // 10])
        steps = [record.step for record in open_log(path).records]
        assert 20 < steps[-1] < 48


def test_an_event_file_that_lies_about_a_length(board: Path) -> None:
    path = next(board.iterdir())
    path.write_bytes(path.read_bytes() + struct.pack("<QI", 1 << 60, 0))
    assert [record.step for record in open_log(path).records][-1] == 48


def test_several_runs_below_a_directory_are_named(board: Path, wandb_run: Path) -> None:
    other = board.parent / "other"
    other.mkdir()
    (other / "events.out.tfevents.2").write_bytes(next(board.iterdir()).read_bytes())
    wandb_run.unlink()
    said = message(board.parent / ".")
    assert "2 runs" in said
    assert str(other) in said


def test_a_csv_of_several_wandb_runs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text('"Step","a - loss","b - loss"\n1,0.5,0.6\n')
    assert "several runs (a, b)" in message(path)


def test_a_journal_of_another_version_and_a_foreign_record(observed: Observed, tmp_path: Path) -> None:
    lines = next(observed.journal.iterdir()).read_text().splitlines(keepends=True)
    path = tmp_path / "journal-00000.jsonl"
    path.write_text(lines[0].replace('"version":1', '"version":99'))
    assert "version 99" in message(path)
    path.write_text(lines[0] + '{"type":"step","step":7}\n')
    with pytest.raises(JournalError, match="step 7 is no step of ours"):
        run(open_log(path).records)


def test_values_from_hell_judge_what_can_be_judged(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [
        {"step": 1, "loss": 0.5, "reward": None, "kl": "high", "": 3, "größe": 1.0},
        {"step": None, "loss": [1, 2], "reward": {"mean": 1}, "grad_norm": True},
        {"step": "NaN", "loss": 1e308, "completions": [["a"]]},
        {"step": 0, "loss": -1e308, "reward": 10**400},
        {"loss": float("inf")},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [found.rule for found in run(open_log(path).records)] == ["NonFinite"]


@pytest.mark.slow
def test_a_huge_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """A quarter of a gigabyte of JSON Lines: nothing of it is kept."""
    import subprocess
    import sys

    path = tmp_path / "log.jsonl"
    row = json.dumps({"step": 1, "loss": 0.5, "note": "x" * 20_000}) + "\n"
    with path.open("w") as file:
        for _ in range(250 * 2**20 // len(row)):
            file.write(row)
    code = (
        "from pathlib import Path; from rlhf_otel.replay import open_log, run; "
        f"run(open_log({str(path)!r}).records); "
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150 * 1024
