"""Every fault acts on a real run, from its step on and not before, and says when it struck."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlhf_otel.catalogue.rules import RULE_BY_NAME
from rlhf_otel.demo.faults import FAULTS, Record, default_step, read_record

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

STEPS = 8
STRIKES_AT = 4


@dataclass
class Run:
    """A short run, step by step, as the trainer's own hooks saw it."""

    trainer: Any
    directory: Path
    started: float
    rows: list[dict[str, float]] = field(default_factory=list)
    error: Exception | None = None

    def before(self, key: str) -> list[float]:
        """Values of the steps that the fault must not touch."""
        return [row[key] for row in self.rows if row["step"] < STRIKES_AT]

    def after(self, key: str) -> list[float]:
        """Values from the fault's step on."""
        return [row[key] for row in self.rows if row["step"] >= STRIKES_AT]


def train(directory: Path, fault: str, plain: bool = False) -> Run:
    from transformers import TrainerCallback

    from rlhf_otel.demo import rewards
    from rlhf_otel.demo.train import Settings, build_trainer, plain_trainer

    torch.set_num_threads(1)
    losses: list[float] = []

    class Recorder(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            row = {key: values[-1] for key, values in run.trainer._metrics["train"].items()}
            rate = run.trainer.optimizer.param_groups[0]["lr"]
            seconds = time.perf_counter() - self.began
            run.rows.append(
                row | {"step": state.global_step, "loss": losses[-1], "rate": rate, "seconds": seconds}
            )

    settings = Settings(
        directory,
        steps=STEPS,
        logging_steps=1,
        pretraining_steps=40,
        fault=fault,
        fault_step=STRIKES_AT,
        stall_seconds=1.5,
    )
    if plain:
        trainer: Any = plain_trainer(settings, rewards.REWARD_FUNCTIONS, [Recorder()])
    else:
        trainer = build_trainer(settings, [Recorder()])
    run = Run(trainer, directory, time.time())
    training_step = trainer.training_step

    def observed(*args: Any, **kwargs: Any) -> Any:
        loss = training_step(*args, **kwargs)
        losses.append(float(loss))
        return loss

    trainer.training_step = observed  # as telemetry does: on the instance, and after the fault was laid
    try:
        trainer.train()
    except (RuntimeError, ConnectionError) as error:
        run.error = error
    return run


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("healthy"), "none")


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault_explains_itself_and_names_rules_that_exist(fault: Any) -> None:
    assert fault.explanation.endswith(".")
    assert set(fault.caught_by) <= set(RULE_BY_NAME)
    assert fault.caught_by or fault.name == "none"


SETS_OFF = {
    "none": set(),
    "learning-rate": {
        "LearningRateJump",
        "KLSpike",
        "TruncationJump",
        "LossSpike",
        "RewardCollapse",
        "KLRunaway",
    },
    "nan-reward": {"NonFinite"},
    "nan-gradient": {"NonFinite", "RunFailed"},
    "nan-loss": {"NonFinite"},
    "constant-reward": {"NoAdvantage", "ZeroAdvantageGroups", "ParametersNotChanging"},
    "slow-reward": {"RewardFunctionSlow", "ThroughputRegression", "SlowStep"},
    "stall": {"RunStalled", "SlowStep"},
    "truncation": {"TruncationJump", "TruncationHigh", "CompletionLengthExplosion", "RewardCollapse"},
    "crash": {"RunFailed"},
    "kill": {"RunGone"},
}
"""What real runs with each fault set off, or would if nothing explained it."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_names_rules_that_it_sets_off_and_none_that_another_of_them_explains(fault: Any) -> None:
    sets_off = SETS_OFF[fault.name]
    assert set(fault.caught_by) <= sets_off
    for rule in fault.caught_by:
        assert not sets_off.intersection(RULE_BY_NAME[rule].inhibited_by), rule


def test_default_step_leaves_room_on_both_sides() -> None:
    assert default_step(300) == 135
    assert default_step(1) == 1


def test_none_leaves_the_run_as_it_is_without_an_injector(healthy: Run, tmp_path: Path) -> None:
    plain = train(tmp_path, "none", plain=True)
    for key in ("loss", "reward", "kl", "entropy"):
        assert [row[key] for row in healthy.rows] == [row[key] for row in plain.rows]
    assert len(healthy.rows) == STEPS
    assert read_record(healthy.directory) is None


def strikes(fault: str, directory: Path, healthy: Run) -> Run:
    """Train with the fault, and check what holds for all of them."""
    run = train(directory, fault)
    for key in ("loss", "reward", "kl"):
        assert run.before(key) == healthy.before(key), "the steps before the fault were touched"
    record = read_record(directory)
    assert record is not None
    assert (record.fault, record.step) == (fault, STRIKES_AT)
    assert run.started < record.time < time.time()
    return run


def test_learning_rate(healthy: Run, tmp_path: Path) -> None:
    run = strikes("learning-rate", tmp_path, healthy)
    assert run.after("rate") == pytest.approx([100 * run.before("rate")[0]] * 5)
    assert max(run.after("kl")) > 5 * max(healthy.after("kl"))


def test_nan_reward(healthy: Run, tmp_path: Path) -> None:
    run = strikes("nan-reward", tmp_path, healthy)
    assert all(math.isnan(value) for value in run.after("rewards/correctness/mean"))
    assert max(run.after("reward")) <= 0.2, "TRL trains on with what is left"
    assert run.error is None


def test_nan_gradient_ends_the_run_in_the_next_generation(healthy: Run, tmp_path: Path) -> None:
    run = strikes("nan-gradient", tmp_path, healthy)
    assert isinstance(run.error, RuntimeError)
    assert [row["step"] for row in run.rows] == [1, 2, 3, 4]
    assert all(weights.isnan().any() for weights in run.trainer.model.parameters())


def test_nan_loss_is_hidden_by_the_log(healthy: Run, tmp_path: Path) -> None:
    run = strikes("nan-loss", tmp_path, healthy)
    assert all(math.isnan(value) for value in run.after("loss"))
    assert run.after("reward") == healthy.after("reward"), "the gradient was not touched"
    logged = [entry["loss"] for entry in run.trainer.state.log_history if "loss" in entry]
    assert logged[STRIKES_AT - 1 :] == [0.0] * 5


def test_constant_reward(healthy: Run, tmp_path: Path) -> None:
    run = strikes("constant-reward", tmp_path, healthy)
    assert max(run.before("frac_reward_zero_std")) < 0.5
    assert run.after("frac_reward_zero_std") == [1.0] * 5
    assert run.after("reward") == pytest.approx([1.0] * 5)


def test_slow_reward(healthy: Run, tmp_path: Path) -> None:
    run = strikes("slow-reward", tmp_path, healthy)
    assert min(run.after("seconds")) > 0.25
    assert run.after("loss") == healthy.after("loss")


def test_stall_blocks_once(healthy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep, slept = time.sleep, []
    monkeypatch.setattr(time, "sleep", lambda seconds: (slept.append(seconds), sleep(seconds)))
    run = strikes("stall", tmp_path, healthy)
    assert [seconds for seconds in slept if seconds >= 1.5] == [max(slept)]
    assert run.after("seconds")[0] > max(slept)
    assert run.after("loss") == healthy.after("loss")


def test_truncation(healthy: Run, tmp_path: Path) -> None:
    run = strikes("truncation", tmp_path, healthy)
    assert max(run.before("completions/clipped_ratio")) < 0.2
    assert run.after("completions/clipped_ratio") == [1.0] * 5
    assert run.after("completions/mean_length") == [24.0] * 5


def test_crash(healthy: Run, tmp_path: Path) -> None:
    run = strikes("crash", tmp_path, healthy)
    assert isinstance(run.error, ConnectionError)
    assert [row["step"] for row in run.rows] == [1, 2, 3]


def test_kill_takes_the_process_and_leaves_the_record(tmp_path: Path) -> None:
    """In a process without torch: what is killed need not train, and starts in a moment."""
    script = f"""
import types, pathlib
from rlhf_otel.demo import breaking, faults
host = types.SimpleNamespace(state=types.SimpleNamespace(global_step=3), training_step=lambda: None)
target = breaking.Target(host, breaking.BreakableRewards.of([]))
faults.inject(faults.FAULTS["kill"], target, breaking.Dose(step=4), pathlib.Path({str(tmp_path)!r}))
host.training_step()
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=30)
    assert ended.returncode == -signal.SIGKILL
    record = read_record(tmp_path)
    assert record == Record("kill", 4, record.time if record else 0.0)
