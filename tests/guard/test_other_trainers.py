"""Other trainers than GRPO, and adapters: guarded, and their step replayed to the same loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_trainers
import torch
import trl
from click.testing import CliRunner
from datasets import Dataset
from failing import bundles, huge_reward, telemetry
from transformers import TrainerCallback

from rlhf_otel.cli import commands
from rlhf_otel.guard.bundle import read

BAD_STEP = 2
LAST_WEIGHTS = ("lora_B", "lm_head", "score")


class BlownUpWeights(TrainerCallback):
    """From a step on, some weights are so large, and still finite, that what they give is not."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 != BAD_STEP:
            return
        trained = {n: w for n, w in kwargs["model"].named_parameters() if w.requires_grad}
        last = next(w for part in LAST_WEIGHTS for name, w in trained.items() if part in name)
        with torch.no_grad():
            last.fill_(2e38)


def rloo(folder: Path, callback: TrainerCallback) -> Any:
    trainer = tiny_trainers.rloo(folder, [callback], normalize_advantages=False)
    trainer.reward_funcs[0] = huge_reward(BAD_STEP)
    return trainer


def with_adapter(folder: Path, callback: TrainerCallback) -> Any:
    return tiny_trainers.build(
        folder,
        trl.SFTTrainer,
        trl.SFTConfig,
        [callback, BlownUpWeights()],
        model=tiny_trainers.base_model(folder),
        train_dataset=Dataset.from_dict({"text": tiny_trainers.pairs()["chosen"]}),
        peft_config=peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )


def blown_up(build: Callable[..., Any]) -> Callable[..., Any]:
    return lambda folder, callback: build(folder, [callback, BlownUpWeights()])


BUILDERS: dict[str, tuple[Callable[..., Any], str]] = {
    "sft": (blown_up(tiny_trainers.sft), "forward"),
    "dpo": (blown_up(tiny_trainers.dpo), "forward"),
    "reward": (blown_up(tiny_trainers.reward), "forward"),
    "rloo": (rloo, "backward"),
    "sft with an adapter": (with_adapter, "forward"),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_an_update_of_another_trainer_is_dropped_and_replayed(tmp_path: Path, name: str) -> None:
    build, stage = BUILDERS[name]
    callback = telemetry(guard_content="tokens")
    trainer = build(tmp_path, callback)
    trainer.train()
    assert callback.run is not None
    assert (callback.run.view().updates_dropped or 0) >= 1
    assert all(bool(weights.isfinite().all()) for weights in trainer.model.parameters())
    bundle = read(bundles(tmp_path)[0])
    assert bundle.facts["step"] == BAD_STEP
    result = CliRunner().invoke(commands, ["reproduce", str(bundle.path), "--format", "json"])
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(result.output)
    assert found["losses"] == bundle.facts["losses"]
    assert found["findings"][0]["stage"] == stage


def test_of_a_model_with_an_adapter_only_the_adapter_is_kept(tmp_path: Path) -> None:
    from safetensors import safe_open

    with_adapter(tmp_path, telemetry(guard_content="tokens")).train()
    (weights,) = bundles(tmp_path)[0].glob("model/*.safetensors")
    with safe_open(weights, "pt") as opened:
        assert all("lora_" in name for name in opened.keys())  # noqa: SIM118 - no mapping
