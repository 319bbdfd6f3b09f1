"""PPO on TRL 1.12: statistics freed of the cells that TRL leaves empty, and the phases of a step."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import linear_regression, stdev
from typing import Any

import pytest
from environments import TEST_TIMEOUT_S, run_python, train

from rlhf_otel.demo import language
from rlhf_otel.exporters.journal import read_journal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(TEST_TIMEOUT_S)]

STEPS = 3
SINGLE = {"num_mini_batches": 1, "num_ppo_epochs": 1, "gradient_accumulation_steps": 1}
RUNS: dict[str, dict[str, Any]] = {
    "ppo:1": {"max_steps": STEPS, "num_mini_batches": 1, "learning_rate": 1e-6},
    "ppo:2": {"max_steps": STEPS, "num_mini_batches": 2, "learning_rate": 1e-6},
    "ppo:4": {"max_steps": STEPS, "num_mini_batches": 4, "learning_rate": 1e-6, "logging_steps": 100},
    "ppo:single": {"max_steps": STEPS, **SINGLE},
    "ppo:no-eos": {"max_steps": STEPS, **SINGLE, "stop_token": None, "missing_eos_penalty": None},
    "ppo:epochs": {"max_steps": 32, **SINGLE},
    "ppo:evaluates": {"max_steps": STEPS, **SINGLE, "num_sample_generations": STEPS},
}

Seen = tuple[Path, dict[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("ppo")
    return folder, train("ppo", folder, RUNS)


def steps(seen: Seen, name: str) -> list[dict[str, Any]]:
    """The journal's steps of a run."""
    assert "error" not in seen[1][name], seen[1][name]["error"]
    return [record for record in read_journal(seen[0] / name / "journal") if record["type"] == "step"]


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_statistics_do_not_depend_on_how_many_cells_trl_fills(batches: int, seen: Seen) -> None:
    name = f"ppo:{batches}"
    logged = [entry for entry in seen[1][name]["history"] if "val/ratio" in entry]

    for step, said in zip(steps(seen, name), logged, strict=True):
        values = step["values"]
        assert said["val/ratio"] == pytest.approx(1 / batches, rel=1e-2), "what TRL makes of it"
        assert values["policy_ratio"] == pytest.approx(1.0, abs=1e-2)
        assert 3.0 < values["entropy"] <= math.log(len(language.VOCABULARY)) + 1e-3
        assert values["policy_ratio_variance"] < 1e-4
        assert values["value_loss"] == pytest.approx(said["loss/value_avg"] * batches)
        assert values["kl_per_sequence"] == pytest.approx(said["objective/kl"])
        assert values["score"] == pytest.approx(said["objective/scores"])
        assert values["reward"] == pytest.approx(said["objective/rlhf_reward"])
        assert values["learning_rate"] == pytest.approx(said["lr"])


def test_a_single_cell_has_no_variance_and_no_anomaly(seen: Seen) -> None:
    assert any(math.isnan(entry.get("val/ratio_var", 0.0)) for entry in seen[1]["ppo:single"]["history"])
    assert not seen[1]["ppo:single"]["anomalies"]
    for step in steps(seen, "ppo:single"):
        assert "policy_ratio_variance" not in step["values"]
        assert "nonfinite" not in step or not step["nonfinite"]


def test_end_tokens_are_per_completion_and_absent_where_nothing_asks_for_them(seen: Seen) -> None:
    for step in steps(seen, "ppo:single"):
        assert step["values"]["eos_per_completion"] == step["values"]["eos_tokens"] / 4
    assert all("eos_per_completion" not in step["values"] for step in steps(seen, "ppo:no-eos"))


def test_quotients_are_absent_where_the_policy_loss_is_next_to_nothing(seen: Seen) -> None:
    every = [step["values"] for name in RUNS for step in steps(seen, name)]
    shown = [values for values in every if "kl_policy_loss_ratio" in values]

    assert shown
    for values in shown:
        assert abs(values["policy_loss"]) >= 1e-3
        expected = 0.05 * values["kl_per_sequence"] / abs(values["policy_loss"])
        assert values["kl_policy_loss_ratio"] == pytest.approx(expected)
    for values in every:
        assert ("kl_policy_loss_ratio" in values) == (abs(values["policy_loss"]) >= 1e-3)


def test_the_phases_of_a_step(seen: Seen) -> None:
    counts, seconds = seen[1]["ppo:2"]["phases"], seen[1]["ppo:2"]["phase_seconds"]
    micro_batches = STEPS * 2 * 4  # two epochs of four

    assert counts["rollout"] == counts["update"] == counts["generate"] == STEPS
    assert counts["values"] == counts["reference_logprobs"] == counts["reward_function"] == STEPS * 2
    assert counts["forward"] == counts["backward"] == micro_batches
    assert 0 < counts["optimizer"] <= micro_batches
    assert not counts["evaluation"]
    assert all(
        seconds[phase] > 0 for phase in ("rollout", "generate", "values", "update", "forward", "optimizer")
    )
    assert seen[1]["ppo:2"]["function_seconds"].keys() == {"reward_model"}


def test_sampling_for_the_table_is_an_evaluation_and_no_rollout(seen: Seen) -> None:
    counts = seen[1]["ppo:evaluates"]["phases"]

    assert counts["evaluation"] == counts["rollout"] == STEPS
    assert counts["generate"] == 2 * STEPS


def test_runs_one_after_another_leave_nothing_behind(seen: Seen) -> None:
    assert not any(found["faults"] for found in seen[1].values())
    assert [found["outcome"] for found in seen[1].values()] == ["finished"] * len(RUNS)


def test_epochs_are_summed_up_in_the_journal(seen: Seen) -> None:
    name = "ppo:epochs"
    every = steps(seen, name)
    epochs = [record for record in read_journal(seen[0] / name / "journal") if record["type"] == "epoch"]

    assert [epoch["epoch"] for epoch in epochs] == [0, 1]
    assert [epoch["steps"] for epoch in epochs] == [16, 16]
    for epoch in epochs:
        inside = [step["values"] for step in every if epoch["first_step"] <= step["step"] <= epoch["step"]]
        assert len(inside) == 16
        for signal in ("kl_per_sequence", "value_loss", "score", "entropy", "policy_ratio", "learning_rate"):
            said, values = epoch["signals"][signal], [step[signal] for step in inside]
            assert said["mean"] == pytest.approx(sum(values) / 16)
            assert said["std"] == pytest.approx(stdev(values), rel=1e-6, abs=1e-12)
            assert (said["min"], said["max"]) == (min(values), max(values))
            slope = linear_regression(
                [step["step"] for step in every if step["values"] in inside], values
            ).slope
            assert said["slope"] == pytest.approx(slope, rel=1e-6, abs=1e-12)
            assert 0 <= said["p"] <= 1
    assert epochs[0]["signals"]["learning_rate"]["trend"] == "falling", "it decays linearly"
    assert epochs[0]["signals"]["episodes"]["trend"] == "rising"


RAISES = """
import sys
from pathlib import Path
import tiny_older
from rlhf_otel.callback import TelemetryCallback

folder = Path(sys.argv[1])
trainer = tiny_older.ppo(folder, [TelemetryCallback(metrics_port="off", journal=folder / "journal")])
def broken(*args, **kwargs):
    raise ValueError("the reward model is broken")
trainer.reward_model.forward = trainer.reward_model.model.forward = broken
trainer.train()
"""


def test_training_that_raises_has_failed_though_ppo_names_no_trainer_in_time(tmp_path: Path) -> None:
    done = run_python("ppo", "-c", RAISES, str(tmp_path))
    (end,) = [record for record in read_journal(tmp_path / "journal") if record["type"] == "end"]

    assert done.returncode == 1
    assert end["outcome"] == "failed"
    assert "the reward model is broken" in end["reason"]
