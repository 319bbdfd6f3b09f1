"""The same run from every kind of log: what would have fired is the same, as far as the log tells."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from replay_data import CORPUS, Observed, needs_corpus

from rlhf_otel import replay
from rlhf_otel.cli import commands
from rlhf_otel.exporters.journal import JournalWriter, read_journal
from rlhf_otel.replay import Replay, open_log
from rlhf_otel.replay.log import Log


def replayed(path: Path, algorithm: str = "") -> tuple[Log, Replay]:
    log = open_log(path, algorithm=algorithm)
    judged = Replay()
    for record in log.records:
        judged.observe(record)
    return log, judged


def fired(path: Path) -> list[tuple[str, int, int]]:
    return [(found.rule, found.first_step, found.last_step) for found in replayed(path)[1].anomalies]


def log_dicts(trainer_state: Path) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = json.loads(trainer_state.read_text())["log_history"]
    return history


# --- real files


def test_a_real_trainer_state(trainer_state: Path) -> None:
    log, judged = replayed(trainer_state)
    assert (log.format, judged.first_step, judged.last_step) == ("trainer_state", 1, 48)
    assert fired(trainer_state) == [("NonFinite", 41, 48)]
    assert not log.timed
    assert log.unknown == {}


def test_a_real_tensorboard_directory(board: Path) -> None:
    """TRL logs None for a reward that is NaN throughout, and TensorBoard drops it."""
    log, judged = replayed(board)
    assert (log.format, log.timed, judged.steps) == ("tensorboard", True, 48)
    assert fired(board) == [("NonFinite", 41, 48)]
    assert "missing though completions were generated" in judged.anomalies[0].anomaly.detail


def test_one_event_file_is_a_log_too(board: Path) -> None:
    assert fired(next(board.iterdir())) == [("NonFinite", 41, 48)]


def test_a_directory_for_hyperparameters_is_no_second_run(board: Path) -> None:
    """SummaryWriter.add_hparams writes an event file of its own into a directory below."""
    whole = next(board.iterdir()).read_bytes()
    first = 8 + 4 + int.from_bytes(whole[:8], "little") + 4
    (board / "1700000000.1").mkdir()
    (board / "1700000000.1" / "events.out.tfevents.1.host.1.1").write_bytes(whole[:first])
    assert fired(board) == [("NonFinite", 41, 48)]


def test_a_real_offline_run_of_wandb(wandb_run: Path) -> None:
    log, judged = replayed(wandb_run)
    assert (log.format, log.timed, judged.steps) == ("wandb", True, 48)
    assert fired(wandb_run) == [("NonFinite", 41, 48)]


def test_the_directory_that_wandb_makes(wandb_run: Path) -> None:
    run = wandb_run.parent / "wandb" / "offline-run-20260101_000000-abcdefgh"
    run.mkdir(parents=True)
    wandb_run.rename(run / wandb_run.name)
    (run.parent / "latest-run").symlink_to(run, target_is_directory=True)
    assert fired(run.parent) == fired(run) == [("NonFinite", 41, 48)]


def test_every_tracker_has_the_values_of_the_trainer_state(
    trainer_state: Path, board: Path, wandb_run: Path
) -> None:
    expected = [record.values for record in open_log(trainer_state).records]
    for path in (board, wandb_run):
        for record, values in zip(open_log(path).records, expected, strict=True):
            shared = record.values.keys() & values.keys()
            assert len(shared) > 20
            for name in shared:
                assert record.values[name] == pytest.approx(values[name], rel=1e-6, nan_ok=True)


def test_a_journal_says_what_was_said_in_process(observed: Observed) -> None:
    anomalies = [record for record in read_journal(observed.journal) if record["type"] == "anomaly"]
    log, judged = replayed(observed.journal)
    found = [(each.rule, each.first_step, each.anomaly.step) for each in judged.anomalies]
    assert found == [(record["rule"], record["first_step"], record["step"]) for record in anomalies]
    assert ("RewardFunctionSilent", 41) in [each[:2] for each in found]
    assert (log.identity.run_id, log.identity.algorithm, log.timed) == ("observed", "grpo", True)
    assert log.end is not None
    assert log.end.outcome == "finished"


def test_the_journal_is_found_from_the_output_directory(observed: Observed, tmp_path: Path) -> None:
    (tmp_path / "rlhf_otel").symlink_to(observed.journal, target_is_directory=True)
    assert fired(tmp_path) == fired(observed.journal)


def test_a_rotated_journal_is_read_as_one(observed: Observed, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path, max_bytes=20_000)
    for record in read_journal(observed.journal):
        writer.write(record)
    writer.close()
    assert len(list(tmp_path.iterdir())) > 2
    assert fired(tmp_path) == fired(observed.journal)


def test_a_torn_last_line_of_a_journal_costs_no_more_than_itself(observed: Observed, tmp_path: Path) -> None:
    whole = next(observed.journal.iterdir()).read_bytes()
    torn = tmp_path / "journal-00000.jsonl"
    torn.write_bytes(whole[: whole.rindex(b'{"type":"step"') + 100])
    _, judged = replayed(torn)
    assert judged.last_step == 47


def test_of_several_runs_in_a_journal_the_newest_is_judged(observed: Observed, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path)
    for run_id in ("older", "newer"):
        for record in read_journal(observed.journal):
            changed = {**record, "run_id": run_id} if record["type"] == "run" else record
            if run_id == "older" or record.get("step", 0) < 30:
                writer.write(changed)
    writer.close()
    log, judged = replayed(tmp_path)
    assert (log.identity.run_id, judged.last_step) == ("newer", 29)
    assert "2 runs" in log.notes[0]


# --- the same log dicts as people keep them


def test_json_lines_a_list_and_csv_say_the_same(trainer_state: Path, tmp_path: Path) -> None:
    rows = log_dicts(trainer_state)
    expected = fired(trainer_state)
    (tmp_path / "log.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for separator, name in ((",", "comma.csv"), (";", "semicolon.csv"), ("\t", "tabs.tsv")):
        with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
        assert fired(tmp_path / name) == expected, name
    assert fired(tmp_path / "log.json") == fired(tmp_path / "log.jsonl") == expected


def test_an_export_of_wandb_charts(tmp_path: Path) -> None:
    """Columns are called ``run - key``, with minimum and maximum beside each."""
    path = tmp_path / "export.csv"
    head = '"Step","my-run - train/loss","my-run - train/loss__MIN","my-run - train/loss__MAX"\n'
    path.write_text(head + "".join(f"{i},{v},{v},{v}\n" for i, v in [(1, 0.5), (2, "NaN"), (3, 0.5)]))
    _, judged = replayed(path)
    assert judged.counts == {"loss": 3}
    assert fired(path) == [("NonFinite", 2, 2)]


def test_a_history_export_of_wandb_has_prefixes_and_times(trainer_state: Path, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    rows = [
        {f"train/{key}": value for key, value in row.items() if key != "step"}
        | {"_step": 3 * number, "train/global_step": row["step"], "_timestamp": 1.7e9 + number}
        for number, row in enumerate(log_dicts(trainer_state))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log, judged = replayed(path)
    assert log.timed
    assert judged.counts["step_duration"] == 47
    assert fired(path) == [("NonFinite", 41, 48)]


def verl_row(step: int, reward: float) -> dict[str, Any]:
    data = {
        "actor/pg_loss": 0.01,
        "actor/grad_norm": 0.2,
        "actor/entropy": 1.5,
        "critic/rewards/mean": reward,
        "response_length/mean": 200.0,
        "response_length/clip_ratio": 0.05,
        "timing_s/step": 10.0,
        "perf/total_num_tokens": 20_000,
        "val-core/accuracy": 0.5,
    }
    return {"step": step, "data": data}


def test_the_file_logger_of_verl(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    rewards = [0.5 + 0.01 * (step % 3) for step in range(1, 41)] + [-3.0] * 20
    path.write_text("".join(json.dumps(verl_row(i, r)) + "\n" for i, r in enumerate(rewards, 1)))
    log, judged = replayed(path)
    assert (log.format, judged.steps) == ("verl", 60)
    assert judged.counts["tokens_per_second"] == 60
    assert "RewardDrop" in {rule for rule, *_ in fired(path)}
    assert next(each for each in judged.anomalies if each.rule == "RewardDrop").first_step == 41


# --- whose keys they are


@pytest.mark.parametrize(
    ("keys", "algorithm", "signal"),
    [
        (("rewards/chosen", "entropy"), "dpo", "data_entropy"),
        (("rewards/chosen", "kl"), "kto", "kto_kl_baseline"),
        (("rewards/chosen", "log_odds_chosen", "logps/chosen"), "orpo", "chosen_logprob_per_token"),
        (("objective/kl", "loss/value_avg"), "ppo", "value_loss"),
        (("min_reward", "max_reward", "accuracy"), "reward", "preference_accuracy"),
        (("mean_token_accuracy", "entropy"), "sft", "data_entropy"),
        (("reward", "entropy", "kl"), "", "kl_per_token"),
        (("reward", "reward_std", "kl"), "grpo", "kl_per_token"),
        (("reward", "reward_std", "kl", "sample/staleness_mean"), "asyncgrpo", "kl_to_sampler"),
    ],
)
def test_keys_tell_the_algorithm(keys: tuple[str, ...], algorithm: str, signal: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 0.5, **dict.fromkeys(keys, 0.1)}) + "\n")
    log, judged = replayed(path)
    assert log.identity.algorithm == algorithm
    assert signal in judged.counts


def test_the_algorithm_can_be_said(tmp_path: Path) -> None:
    """RLOO's kl is another quantity than GRPO's, under the same key."""
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1, "loss": 0.5, "reward": 1.0, "kl": 0.1}\n')
    assert "kl_per_token_sampled" in replayed(path, algorithm="rloo")[1].counts
    assert "kl_per_token" in replayed(path)[1].counts


def test_what_follows_from_a_row_is_derived_as_in_process(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows: list[dict[str, Any]] = [
        {"step": 1, "eval_reward": 0.2},
        {
            "step": 1, "reward": 1.0, "rewards/a/mean": 0.9, "rewards/a/std": 0.0, "rewards/b/mean": 0.1,
            "rewards/b/std": 0.2,
        },
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (record,) = open_log(path).records
    assert record.values["constant_reward_functions_ratio"] == 0.5
    assert record.values["reward_function_share"] == 0.9
    assert record.values["evaluation_gap"] == 0.8


def test_steps_that_reuse_a_generation_have_baselines_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [{"step": i, "loss": 0.5, **({"reward": 1.0} if i % 2 else {})} for i in range(1, 9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [record.kind.value for record in open_log(path).records] == ["generate", "reuse"] * 4


# --- what other people's runs look like


@needs_corpus
@pytest.mark.parametrize("folder", ["dpo", "grpo", "kto", "orpo", "reward", "sft"])
def test_public_logs_are_read(folder: str) -> None:
    files = sorted((CORPUS / folder).glob("*.json"))
    assert files
    for file in files:
        log, judged = replayed(file)
        assert judged.steps >= 10, file
        assert {"loss", "reward"} & judged.counts.keys(), file
        assert log.identity.algorithm == {"grpo": "grpo", "dpo": "dpo"}.get(folder, log.identity.algorithm), (
            file
        )


@needs_corpus
def test_a_public_run_without_a_learning_signal_is_told() -> None:
    failed = CORPUS / "grpo" / "Dawn-Of-Justice__Fair-RLVR__1.json"
    assert {rule for rule, *_ in fired(failed)} >= {"ZeroAdvantageGroups"}


# --- the Python interface and the command


def test_from_python(trainer_state: Path) -> None:
    (anomaly,) = replay.run(replay.open_log(trainer_state).records)
    assert (anomaly.rule, anomaly.first_step) == ("NonFinite", 41)


def test_the_command_reads_what_the_function_reads(trainer_state: Path) -> None:
    done = CliRunner().invoke(commands, ["replay", str(trainer_state), "--format", "json"])
    assert done.exit_code == 3
    (anomaly,) = json.loads(done.stdout)["anomalies"]
    assert (anomaly["rule"], anomaly["first_step"], anomaly["last_step"]) == ("NonFinite", 41, 48)
