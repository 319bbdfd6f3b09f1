"""Each trainer of TRL is run for real, and every key that it logs is a signal or passes through on purpose."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import tiny_experimental
import tiny_pipelines
import tiny_trainers
import trl
import trl_source
from environments import interpreter
from other_versions import AT_0_29, AT_1_12
from other_versions import algorithm_of as algorithm_of_name
from transformers import TrainerCallback

from rlhf_otel import faults
from rlhf_otel.callback import TelemetryCallback
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.sources.run_identity import algorithm_of
from rlhf_otel.sources.step_metrics import means
from rlhf_otel.sources.trl_keys import FAMILIES, family_of, trainers
from rlhf_otel.sources.trl_keys.trainers import TRAINERS
from rlhf_otel.sources.trl_logs import Slot, classify

BUILDERS = {**tiny_trainers.MAIN, **tiny_pipelines.PIPELINES, **tiny_experimental.EXPERIMENTAL}
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in tiny_experimental.EXPERIMENTAL else ())
    for name in sorted(BUILDERS)
]


class LoggedKeys(TrainerCallback):
    """Every key and number of training that the trainer logs."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.per_step: set[str] = set()
        """What was logged before the end of training."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.values.update(logs)
        if state.global_step < state.max_steps:
            self.per_step |= logs.keys()


def passed_through(key: str, algorithm: str) -> bool:
    """Whether a key has no signal of its own on purpose; it becomes ``rlhf_trainer_metric{key}``."""
    return any(fnmatchcase(key, pattern) for pattern in family_of(algorithm).passed)


def unexpected(keys: Any, algorithm: str) -> set[str]:
    """Keys that are neither mapped nor meant to pass through."""
    unmapped = {key for key in keys if classify(key, algorithm)[0] is Slot.UNMAPPED}
    return {key for key in unmapped if not passed_through(key, algorithm)}


def run(
    builder: tiny_trainers.Builder, folder: Path, **arguments: Any
) -> tuple[Any, LoggedKeys, TelemetryCallback]:
    logged = LoggedKeys()
    observer = TelemetryCallback(metrics_port="off", journal=folder / "journal")
    trainer = builder(folder, [logged, observer], **arguments)
    trainer.train()
    return trainer, logged, observer


@pytest.mark.parametrize("name", CASES)
def test_every_key_that_a_trainer_logs_has_a_meaning(name: str, tmp_path: Path) -> None:
    trainer, logged, observer = run(BUILDERS[name], tmp_path)
    algorithm = algorithm_of(trainer)

    assert algorithm == name
    assert len(logged.values.keys() - {"epoch"}) > 3
    assert not unexpected(logged.values, algorithm)
    assert observer.run is not None
    snapshot = observer.run.pipeline.snapshot
    assert snapshot.step == tiny_trainers.STEPS
    assert not unexpected(snapshot.unmapped, algorithm)
    assert {"loss", "grad_norm", "learning_rate"} <= snapshot.values.keys()
    assert not sum(faults.counts().values())


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("rloo", {"kl_per_token_sampled", "reward", "entropy"}),
        ("dpo", {"preference_accuracy", "preference_margin", "chosen_logprob", "data_entropy"}),
        ("kto", {"kto_kl_baseline", "chosen_reward", "rejected_reward"}),
        ("reward", {"preference_accuracy", "score", "score_min", "score_max"}),
        ("sft", {"token_accuracy", "data_entropy"}),
    ],
)
def test_values_of_each_step_are_the_trainers_whatever_its_logging_steps(
    name: str, signals: set[str], tmp_path: Path
) -> None:
    _, logged, observer = run(tiny_trainers.MAIN[name], tmp_path, logging_steps=1000)

    assert observer.run is not None
    snapshot = observer.run.pipeline.snapshot
    assert snapshot.step == tiny_trainers.STEPS
    assert signals <= snapshot.values.keys()
    assert not signals & {classify(key, name)[1] for key in logged.per_step}


def test_one_word_is_another_quantity_in_another_trainer() -> None:
    meanings = {algorithm: classify("kl", algorithm)[1] for algorithm in ("grpo", "rloo", "kto", "asyncgrpo")}

    assert len(set(meanings.values())) == len(meanings)
    assert classify("objective/kl", "ppo")[1] not in meanings.values()
    assert classify("rewards/chosen", "dpo") == (Slot.SIGNAL, "chosen_reward")
    assert classify("rewards/chosen", "grpo") == (Slot.REWARD_FUNCTION_MEAN, "chosen")


def test_a_key_that_trl_adds_is_noticed() -> None:
    assert unexpected(["loss", "brand_new/key"], "dpo") == {"brand_new/key"}
    assert unexpected(["perf/fwd_s", "perf/brand_new"], "asyncgrpo") == {"perf/brand_new"}


VERSIONS = [
    pytest.param("", trainers.NOW, BUILDERS.keys(), id=trainers.NOW),
    pytest.param("ppo", trainers.LAST_PPO, AT_1_12.keys() | BUILDERS.keys(), id=trainers.LAST_PPO, marks=pytest.mark.slow),
    pytest.param("trl029", trainers.OLDEST, AT_0_29.keys(), id=trainers.OLDEST, marks=pytest.mark.slow),
]  # fmt: skip
"""Environment, its version of TRL, and the trainers that are run with it."""


@pytest.mark.parametrize(("environment", "version", "run_here"), VERSIONS)
def test_every_key_in_trl_s_source_has_a_meaning(environment: str, version: str, run_here: Any) -> None:
    """Whether or not a tiny run gets there. It fails when TRL adds a key."""
    found = set(trl_source.keys(package(environment)))

    assert len(found) > 150, "TRL notes its metrics in another way: trl_source has to follow"
    assert {"grpo", "rloo", "dpo", "kto", "sft", "reward"} <= {algorithm for algorithm, _ in found}
    assert not {
        (algorithm, key)
        for algorithm, key in found
        if all(unexpected([spelt], algorithm) for spelt in trl_source.spellings(key))
    }


@pytest.mark.parametrize(("environment", "version", "run_here"), VERSIONS)
def test_every_trainer_of_trl_belongs_to_a_family_and_is_run(
    environment: str, version: str, run_here: Any
) -> None:
    known = {algorithm for family in FAMILIES for algorithm in family.algorithms}
    present = trl_source.algorithms(package(environment))

    assert len(present) > 15
    assert present <= known
    assert present <= {algorithm_of_name(name) for name in run_here}


@pytest.mark.parametrize(("environment", "version", "run_here"), VERSIONS)
def test_a_key_that_is_for_replay_is_logged_by_no_version_that_runs(
    environment: str, version: str, run_here: Any
) -> None:
    found = set(trl_source.keys(package(environment)))
    replayed = {(algorithm, key) for one in FAMILIES for algorithm in one.algorithms for key in one.replayed}

    assert ("ppo", "ppo/loss/value") in replayed
    assert all(family.replayed <= family.keys.keys() for family in FAMILIES)
    assert not replayed & found


def test_a_key_that_trl_adds_is_found_in_its_source(tmp_path: Path) -> None:
    """Both sides of the scan: a trainer as it is, and with one more line."""
    source = Path(trl.__file__).parent / "trainer/dpo_trainer.py"
    copy = tmp_path / "dpo_trainer.py"
    copy.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    before = set(trl_source.keys(tmp_path))
    with copy.open("a", encoding="utf-8") as file:
        file.write('        self._metrics[mode]["brand_new/key"].append(1.0)\n')

    assert set(trl_source.keys(tmp_path)) - before == {("dpo", "brand_new/key")}


def package(environment: str) -> Path:
    """Where TRL lies in an environment; by default in this one."""
    if not environment:
        return Path(trl.__file__).parent
    return trl_source.package(interpreter(environment))


def test_the_table_of_trainers_says_what_these_tests_run() -> None:
    of: dict[str, set[str]] = {}
    for tested in TRAINERS:
        for version in tested.versions:
            of.setdefault(version, set()).add(tested.algorithm)

    assert of[trainers.NOW] == BUILDERS.keys()
    assert of[trainers.LAST_PPO] == {algorithm_of_name(name) for name in AT_1_12} - of[trainers.NOW]
    assert of[trainers.OLDEST] == {algorithm_of_name(name) for name in AT_0_29}
    assert trl.__version__.startswith(trainers.NOW)


def test_async_windows_are_reduced_as_the_trainer_does() -> None:
    window = [1.0, 3.0]
    names = ("sample/dropped_stale_total", "sample/staleness_max", "clip_ratio/low_min", "ratio")
    reduced = means([(name, window) for name in names], reduces_by_name=True)

    assert list(reduced.values()) == [4.0, 3.0, 1.0, 2.0]
    assert means([("rate", [(1.0, 2.0), (3.0, 4.0)])]) == {"rate": 4.0 / 6.0}


def test_evaluation_never_becomes_a_training_signal(tmp_path: Path) -> None:
    logged = LoggedKeys()
    observer = TelemetryCallback(metrics_port="off", journal=tmp_path / "journal")
    trainer = tiny_trainers.dpo(tmp_path, [logged, observer])
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 2
    trainer.eval_dataset = trainer.train_dataset.select(range(4))
    trainer.train()

    evaluated = {key for key in logged.values if key.startswith("eval_")}
    assert "eval_rewards/accuracies" in evaluated
    assert not unexpected(evaluated, "dpo")
    assert observer.run is not None
    assert "preference_accuracy" in observer.run.pipeline.snapshot.evaluation
    assert observer.run.pipeline.snapshot.evaluations == 2
    steps = [record for record in read_journal(tmp_path / "journal") if record["type"] == "step"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    trained = [step["values"]["preference_accuracy"] for step in steps]
    assert trained == [
        history["rewards/accuracies"] for history in trainer.state.log_history if "loss" in history
    ]
