"""The real commands: what a new user types, with nothing of ours in any script.

``opentelemetry-instrument`` instruments launchers and children as well, so each process says what it did
(``probe.py``, loaded by OpenTelemetry's own entry points).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_trainers
import yaml
from observing import journal
from otlp_receiver import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
STEPS = 3

REWARDS = """
def variety(completions, **_):
    return [float(len(set(str(text).split()))) for text in completions]
"""
SCRIPT = """
import sys
from datasets import load_dataset
from my_rewards import variety
from trl import GRPOConfig, GRPOTrainer, TrlParser

(arguments,) = TrlParser(GRPOConfig).parse_args_and_config(["--config", "grpo.yaml"], fail_with_unknown_args=False)
data = load_dataset("data")["train"]
GRPOTrainer("LlamaForCausalLM", reward_funcs=variety, args=arguments, train_dataset=data).train()
"""
PROBE = "[opentelemetry_pre_instrument]\nprobe = probe:before\n[opentelemetry_post_instrument]\nprobe = probe:after\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: model, data, a reward function, a script and a configuration."""
    tiny_trainers.base_model(tmp_path)
    (tmp_path / "data").mkdir()
    rows = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in tiny_trainers.prompts())
    (tmp_path / "data" / "train.jsonl").write_text(rows)
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    (tmp_path / "train.py").write_text(SCRIPT)
    configure(tmp_path)
    return tmp_path


def configure(project: Path, **more: Any) -> None:
    """Write ``grpo.yaml``, as for ``trl grpo --config``."""
    content = {
        **tiny_trainers.COMMON,
        "model_name_or_path": "LlamaForCausalLM",
        "dataset_name": "data",
        "reward_funcs": ["my_rewards.variety"],
        "output_dir": "out",
        "max_steps": STEPS,
        "num_generations": 2,
        "max_completion_length": 8,
        **more,
    }
    (project / "grpo.yaml").write_text(yaml.safe_dump(content))


class Processes:
    """Runs commands, and knows what each process of them did."""

    def __init__(self, project: Path, site: Path) -> None:
        self.project = project
        self.port = free_port()
        (site / "probe-1.dist-info").mkdir(parents=True)
        (site / "probe-1.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: probe\nVersion: 1\n"
        )
        (site / "probe-1.dist-info" / "entry_points.txt").write_text(PROBE)
        (site / "said").mkdir()
        self._said = site / "said"
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(site), str(HERE), str(ROOT), str(project)]),
            "PROBE_DIRECTORY": str(self._said),
            "RLHF_OTEL_RUN_ID": "zero-code",
            "RLHF_OTEL_METRICS_PORT": str(self.port),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: Sequence[str]) -> str:
        """Run it to its end; what it said."""
        bin_ = Path(sys.executable).parent
        done = subprocess.run(
            [bin_ / command[0], *command[1:]], cwd=self.project, env={**self._environment, "PATH": path(bin_)},
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        return said

    @property
    def told(self) -> list[dict[str, Any]]:
        """What each process said of itself."""
        return [json.loads(path.read_text()) for path in self._said.iterdir()]

    def serving(self) -> list[dict[str, Any]]:
        """Processes that opened the port for metrics, or one after it."""
        ours = range(self.port, self.port + 32)
        return [said for said in self.told if any(port in ours for port in said["bound"])]


def path(first: Path) -> str:
    return os.pathsep.join([str(first), os.environ.get("PATH", "")])


@pytest.fixture
def processes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Processes:
    return Processes(project, tmp_path_factory.mktemp("site"))


def check(processes: Processes, at_least: int, ranks: int = 1) -> None:
    """The run was observed once; of all the processes its ranks served it, and instrumenting imported nothing."""
    folder = processes.project / "out" / "rlhf_otel"
    assert [record["step"] for record in journal(folder, "step")] == list(range(1, STEPS + 1))
    assert [record["outcome"] for record in journal(folder, "end")] == ["finished"]
    assert [record["run_id"] for record in journal(folder, "run")] == ["zero-code"]
    assert len(processes.told) >= at_least
    assert [said["imported"] for said in processes.told] == [[]] * len(processes.told)
    assert len(processes.serving()) == ranks
    assert all(said["trained"] for said in processes.serving())


def test_trl_grpo(processes: Processes) -> None:
    """``trl`` starts ``accelerate launch``, which starts the training script.

    The two dashes: without them ``opentelemetry-instrument`` takes ``--config`` for an option of its own.
    """
    processes.run(["opentelemetry-instrument", "--", "trl", "grpo", "--config", "grpo.yaml"])
    check(processes, at_least=2)


@pytest.mark.slow
def test_a_script(processes: Processes) -> None:
    processes.run(["opentelemetry-instrument", "--", "python", "train.py"])
    check(processes, at_least=1)


@pytest.mark.slow
def test_accelerate_launch(processes: Processes) -> None:
    processes.run(["opentelemetry-instrument", "--", "accelerate", "launch", "--cpu", "train.py"])
    check(processes, at_least=2)


@pytest.mark.slow
def test_report_to_beside_it_changes_nothing(processes: Processes) -> None:
    configure(processes.project, report_to="rlhf_otel")
    processes.run(["opentelemetry-instrument", "--", "trl", "grpo", "--config", "grpo.yaml"])
    check(processes, at_least=2)


@pytest.mark.slow
def test_children_that_never_train_open_nothing(processes: Processes) -> None:
    """Data loaders' workers are children of an instrumented process, too."""
    configure(processes.project, dataloader_num_workers=2)
    processes.run(["opentelemetry-instrument", "--", "python", "train.py"])
    check(processes, at_least=1)


@pytest.mark.slow
def test_torchrun_with_two_ranks(processes: Processes) -> None:
    options = ["--nproc-per-node", "2", "--standalone"]
    processes.run(["opentelemetry-instrument", "--", "torchrun", *options, "train.py"])
    check(processes, at_least=3, ranks=2)
