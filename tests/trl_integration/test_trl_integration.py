"""The seed's API: its examples as they stand but for the package's name, on tiny models and data with local paths."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from environments import TEST_TIMEOUT_S, run_python

from rlhf_otel.catalogue.rules import Comparison, Statistic
from rlhf_otel.errors import CheckpointError, ConfigurationError
from rlhf_otel.exporters.journal import read_journal
from rlhf_otel.trl_integration import (
    CheckpointAnalyzer,
    PPOMonitoringCallback,
    RewardModelIntegrator,
    TrainingCallback,
    TRLIntegrationConfig,
    TRLIntegrationManager,
    models,
    trainers,
)

SEED = """
from rlhf_otel.trl_integration import TRLIntegrationManager, TRLIntegrationConfig

config = TRLIntegrationConfig(
    model_name="gpt2",
    learning_rate=1e-5,
    batch_size=4,
    enable_profiling=True,
    enable_checkpoint_analysis=True,
    enable_reward_monitoring=True
)
integration_manager = TRLIntegrationManager(config)
trainer = integration_manager.setup_trl_trainer("gpt2", "imdb")
results = integration_manager.train_with_monitoring(
    num_steps=3,
    save_checkpoints=True
)
"""
DATA = {"grpo": "imdb", "rloo": "imdb", "dpo": "pairs", "kto": "judged", "sft": "texts", "reward": "pairs"}


def brevity(completions: list[str], **_: Any) -> list[float]:
    return [-float(len(text.split())) for text in completions]


class Seen(TrainingCallback):
    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def on_signals(self, step: int, signals: dict[str, float], control: Any) -> None:
        self.steps[step] = signals
        control.should_training_stop = step == 3


def test_a_run_of_grpo_is_set_up_trained_and_reported(workplace: Path) -> None:
    seen = Seen()
    config = TRLIntegrationConfig(
        algorithm="grpo", reward_functions=(brevity,), max_completion_tokens=8, kl_coefficient=0.1,
        num_generations=2, clip_range=0.3, enable_profiling=True, device="cpu", log_dir="logs",
    )  # fmt: skip
    manager = TRLIntegrationManager(config, callbacks=(seen,), run_id="mine")
    trainer = manager.setup_trl_trainer("gpt2", "imdb")
    assert (trainer.args.beta, trainer.args.epsilon, trainer.args.num_generations) == (0.1, 0.3, 2)
    results = manager.train_with_monitoring(num_steps=5, save_checkpoints=True)
    assert results["summary"]["run_id"] == "mine"
    assert list(seen.steps) == [1, 2, 3], "the subclass stopped it"
    assert {"reward", "kl_per_token"} <= set(seen.steps[3])
    assert results["rewards"]["brevity"]["calls"]["scores"] == 12
    *_, told = [record for record in read_journal(workplace / "logs") if record["type"] == "reward_model"]
    assert list(told["rewards"]) == ["brevity"]
    assert [Path(path).name for path in results["reports"]] == ["report.json", "report.md", "report.html"]
    steps = [record for record in read_journal(workplace / "logs") if record["type"] == "step"]
    assert len(steps) == 3
    assert (
        len(json.loads((workplace / "logs" / "trace-rank0.json").read_text().rstrip().rstrip(",") + "]")) > 10
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", sorted(set(DATA) - {"grpo"}))
def test_every_algorithm_trains(algorithm: str, workplace: Path) -> None:
    config = TRLIntegrationConfig(
        algorithm=algorithm, model_name="gpt2", dataset_name=DATA[algorithm], max_completion_tokens=8,
        max_steps=2, device="cpu", enable_reward_monitoring=False,
    )  # fmt: skip
    manager = TRLIntegrationManager(config)
    manager.setup_trl_trainer()
    results = manager.train_with_monitoring(save_checkpoints=False)
    assert results["summary"]["algorithm"] == algorithm
    assert results["summary"]["steps"] == 2
    assert "checkpoints" not in results


@pytest.mark.slow
@pytest.mark.timeout(TEST_TIMEOUT_S)
def test_the_seeds_first_example_runs_where_trl_has_ppo(workplace: Path) -> None:
    told = "print('said', json.dumps([results['verdict'], results['summary']['steps'], list(results['rewards'])]))"
    (workplace / "seed.py").write_text(
        f"import json, os\nos.chdir({str(workplace)!r})\nos.environ['RLHF_OTEL_METRICS_PORT'] = 'off'\n{SEED}\n{told}\n"
    )
    done = run_python("ppo", str(workplace / "seed.py"))
    assert done.returncode == 0, done.stdout + done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("said"))
    verdict, steps, rewards = json.loads(said.removeprefix("said"))
    assert verdict.startswith("Finished")
    assert (steps, rewards) == (3, ["reward_model"])
    kinds = {record["type"] for record in read_journal(workplace / "trl_integration" / "rlhf_otel")}
    assert {"run", "step", "checkpoint", "checkpoint_analysis", "end"} <= kinds


def test_without_ppo_the_error_says_where_it_is_and_what_else_there_is(workplace: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"trl==1\.12\.0.*grpo, rloo, dpo, kto, sft, reward"):
        TRLIntegrationManager().setup_trl_trainer("gpt2", "imdb")


def test_the_seeds_second_example(workplace: Path) -> None:
    import torch

    torch.save({"layer.weight": torch.full((4, 4), math.nan)}, "model.pt")
    rewards = [0.1, None, math.nan, 0.4] * 16

    callback = PPOMonitoringCallback(
        anomaly_threshold=2.0, log_dir="./custom_logs", enable_detailed_logging=True
    )
    analyzer = CheckpointAnalyzer(log_dir="./checkpoint_logs")
    analysis = analyzer.analyze_checkpoint("model.pt", step=100)
    integrator = RewardModelIntegrator(log_dir="./reward_logs")
    known = integrator.monitor_reward_model(rewards, step=100)

    assert callback.settings.journal == Path("custom_logs")
    assert (analysis["step"], analysis["health_score"]) == (100, 0.0)
    assert "non-finite" in analysis["recommendations"][0]
    assert (known["calls"]["none"], known["calls"]["nonfinite"]) == (16, 16)
    for name in ("checkpoint_logs/checkpoint_analysis.jsonl", "reward_logs/reward_model.jsonl"):
        record = json.loads(Path(name).read_text())
        assert record["step"] == 100


def test_checkpoints_are_compared(workplace: Path) -> None:
    import torch

    torch.manual_seed(0)
    weights = {"a.weight": torch.randn(8, 8), "b.weight": torch.randn(8, 8)}
    torch.save(weights, "before.pt")
    torch.save({**weights, "b.weight": weights["b.weight"] * 1.5}, "after.pt")
    found = CheckpointAnalyzer("logs").compare_checkpoints("before.pt", "after.pt")
    assert next(iter(found["top_movers"])) == "b.weight"
    assert found["top_movers"]["b.weight"] == pytest.approx(0.5)
    with pytest.raises(CheckpointError):
        CheckpointAnalyzer("logs").analyze_checkpoint("nowhere.pt")


@pytest.mark.parametrize("rewards", [[], [None], [math.nan], ["text"], [0.5] * 64])
def test_rewards_of_any_kind_are_taken(rewards: list[Any], tmp_path: Path) -> None:
    known = RewardModelIntegrator(tmp_path).monitor_reward_model(rewards, step=1)
    assert known["step"] == 1
    assert (known.get("stability") or 0.0) == 0.0, "a constant is not stable"


def test_the_threshold_reaches_the_rules_of_deviations_alone() -> None:
    callback = PPOMonitoringCallback(anomaly_threshold=2.5, metrics_port="off")
    found = {
        (one.statistic, abs(one.threshold))
        for rule in callback.settings.rule_set
        for one in rule.conditions
        if isinstance(one, Comparison)
    }
    assert {threshold for statistic, threshold in found if statistic is Statistic.ZSCORE} == {2.5}
    assert len({threshold for statistic, threshold in found if statistic is not Statistic.ZSCORE}) > 10
    assert PPOMonitoringCallback(enable_detailed_logging=False).settings.samples == "off"
    with pytest.raises(ConfigurationError, match="above 0"):
        PPOMonitoringCallback(anomaly_threshold=-1.0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"algorithm": "p3o"}, "known are ppo"),
        ({"algorithm": "dpo", "ppo_epochs": 2}, "ppo_epochs has no effect with dpo"),
        ({"algorithm": "ppo", "reward_functions": (brevity,)}, "no effect with ppo; it is for grpo, rloo"),
        ({"algorithm": "sft", "kl_coefficient": 0.1}, "no effect with sft"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"precision": "int4"}, "known are fp32"),
        ({"device": "tpu"}, "known are auto, cpu"),
    ],
)
def test_what_is_impossible_or_without_effect_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        TRLIntegrationConfig(**given)


def test_every_field_is_read_somewhere() -> None:
    package = Path(__file__).parent.parent.parent / "rlhf_otel" / "trl_integration"
    code = "".join(
        path.read_text(encoding="utf-8") for path in package.glob("*.py") if path.name != "config.py"
    )
    unread = [
        field.name for field in dataclasses.fields(TRLIntegrationConfig) if f"config.{field.name}" not in code
    ]
    assert unread == ["log_dir"], "which the property logs reads"


def test_every_field_reaches_the_trainer_and_the_telemetry(workplace: Path) -> None:
    """All but those of PPO, with values that are not the defaults."""
    config = TRLIntegrationConfig(
        model_name="gpt2", dataset_name="imdb", algorithm="grpo", learning_rate=3e-4, batch_size=6, gradient_accumulation_steps=2,
        max_steps=7, max_prompt_tokens=3, max_completion_tokens=9, clip_range=0.35, kl_coefficient=0.07, num_generations=3,
        reward_model="gpt2", reward_functions=(brevity,), precision="bf16", device="cpu", seed=5, output_dir="elsewhere",
        log_dir="logs", save_steps=3, logging_steps=2, anomaly_threshold=2.5, enable_profiling=True,
        enable_checkpoint_analysis=False, enable_reward_monitoring=False,
    )  # fmt: skip
    manager = TRLIntegrationManager(config)
    trainer = manager.setup_trl_trainer()
    reached = {
        "learning_rate": 3e-4, "per_device_train_batch_size": 6, "gradient_accumulation_steps": 2, "max_steps": 7,
        "max_completion_length": 9, "epsilon": 0.35, "beta": 0.07, "num_generations": 3, "bf16": True, "use_cpu": True, "seed": 5,
        "output_dir": "elsewhere", "save_steps": 3, "logging_steps": 2,
    }  # fmt: skip
    assert {name: getattr(trainer.args, name) for name in reached} == reached
    assert trainer.reward_func_names == ["brevity", "reward_model"]
    tokens = trainer.processing_class
    prompts = [tokens(row["prompt"], add_special_tokens=False)["input_ids"] for row in trainer.train_dataset]
    assert max(map(len, prompts)) == 3
    given = manager.monitoring.settings
    assert (given.journal, given.checkpoints, given.trace_one_in) == (Path("logs"), "off", 1)
    assert manager.rewards is None
    assert 2.5 in {
        one.threshold for rule in given.rule_set for one in rule.conditions if isinstance(one, Comparison)
    }
    assert TRLIntegrationManager(TRLIntegrationConfig()).rewards is not None


def test_the_fields_of_ppo_reach_its_arguments(workplace: Path) -> None:
    config = TRLIntegrationConfig(
        ppo_epochs=3, mini_batches=2, clip_range=0.15, kl_coefficient=0.01, reward_model="gpt2"
    )
    parts = trainers.Parts(
        config, "gpt2", models.tokenizer("gpt2"), [{"input_ids": [1]}], (), lambda function: function
    )
    rows = Dataset.from_list(parts.dataset)
    built = trainers._ppo(parts._replace(dataset=rows), SimpleNamespace, SimpleNamespace)
    given = built.args
    assert (given.num_ppo_epochs, given.num_mini_batches, given.cliprange, given.kl_coef) == (
        3,
        2,
        0.15,
        0.01,
    )
    assert type(built.reward_model).__name__.endswith("ForSequenceClassification")


def test_what_cannot_be_loaded_is_said(workplace: Path) -> None:
    manager = TRLIntegrationManager(TRLIntegrationConfig(algorithm="dpo"))
    with pytest.raises(ConfigurationError, match="give a model and a data set"):
        manager.setup_trl_trainer("gpt2")
    with pytest.raises(ConfigurationError, match="'nowhere' cannot be loaded"):
        manager.setup_trl_trainer("nowhere", "pairs")
    with pytest.raises(
        ConfigurationError, match="dpo needs the columns chosen, rejected; the data set has label, text"
    ):
        manager.setup_trl_trainer("gpt2", "imdb")
    (workplace / "data.xlsx").write_text("")
    with pytest.raises(ConfigurationError, match=r"ends in \.jsonl"):
        manager.setup_trl_trainer("gpt2", "data.xlsx")
    with pytest.raises(ConfigurationError, match="setup_trl_trainer first"):
        manager.train_with_monitoring(num_steps=1)
