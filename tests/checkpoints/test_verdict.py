"""diff says whether to worry, of real models that were trained well, too fast, too slowly or not at all."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
from checkpoint_cases import adapter, changed, filled, llama, pair, trained

from rlhf_otel.checkpoints.comparison import compare, drift_from
from rlhf_otel.checkpoints.inspection import inspect
from rlhf_otel.cli import commands
from rlhf_otel.errors import CheckpointError


def diff(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["checkpoint", "diff", *map(str, arguments)])


def run_of(folder: Path, rate: float, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """Two checkpoints, 3 steps apart, of a model that had been trained before."""
    torch.manual_seed(0)
    model = trained(llama(), 10).to(dtype)
    paths = []
    for steps in (0, 3):
        paths.append(folder / f"checkpoint-{10 + steps}")
        trained(model, steps, rate).save_pretrained(paths[-1])
    return paths[0], paths[1]


@pytest.mark.parametrize(
    ("rate", "dtype", "said", "code"),
    [
        (1e-4, torch.float32, "Worry? No: the matrices moved by", 0),
        (1e-3, torch.float32, "a large move; look at learning rate, KL and reward", 0),
        (0.02, torch.float32, "WARNING large-drift: all weights", 3),
        (1e-7, torch.bfloat16, "hardly moved; in bf16 most updates are rounded away", 0),
        (0.0, torch.float32, "Worry? Look closer: all weights are those of the checkpoint before", 3),
    ],
)
def test_how_far_a_run_moved_decides(
    rate: float, dtype: torch.dtype, said: str, code: int, tmp_path: Path
) -> None:
    done = diff(*run_of(tmp_path, rate, dtype))
    assert said in " ".join(done.output.split())
    assert done.exit_code == code
    assert ("Worry? No" in done.output) == (rate == 1e-4)


def test_what_is_broken_decides_before_how_far_it_moved(tmp_path: Path) -> None:
    path, before = changed("llama", filled("lm_head", float("nan")), compared=True)(tmp_path)
    assert before is not None
    output = " ".join(diff(before, path).output.split())
    assert "Worry? Yes: weights are NaN or infinite (lm_head.weight)." in output
    assert "usual for fine-tuning" in output
    content = json.loads(diff(before, path, "--format", "json").output)
    assert content["verdict"] == {"worry": "yes", "reason": "weights are NaN or infinite (lm_head.weight)"}


def test_nothing_but_a_nan_is_no_small_move(tmp_path: Path) -> None:
    _, before = pair("llama")(tmp_path)
    after = Path(shutil.copytree(before, tmp_path / "broken"))
    tensors = load_file(after / "model.safetensors")
    tensors["lm_head.weight"][0, 0] = torch.nan
    save_file(tensors, after / "model.safetensors")
    output = diff(before, after).output
    assert "nothing changed but what is not finite" in " ".join(output.split())
    moved = output[output.index("tensor  ") :].splitlines()[1:]
    assert [line.split()[0] for line in moved if line] == ["lm_head.weight"], "others did not change"


def test_layers_that_did_not_change_are_named_and_shares_of_the_move_sum_to_one(tmp_path: Path) -> None:
    _, before = pair("llama")(tmp_path)
    after = Path(shutil.copytree(before, tmp_path / "partly"))
    tensors = load_file(after / "model.safetensors")
    for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"):
        tensors[name][:, :4] *= 1.01
    save_file(tensors, after / "model.safetensors")
    output = diff(before, after).output
    assert "did not change: lm_head, model.embed_tokens, model.layers.1, model.layers.3, model.norm" in output
    rows = {parts[0]: parts for parts in map(str.split, output.splitlines()) if len(parts) == 5}
    layers = [rows["model.layers.0"], rows["model.layers.2"]]
    assert sum(float(row[4].rstrip("%")) for row in layers) == pytest.approx(100, abs=0.2)
    size = sum(value.numel() for name, value in tensors.items() if name.startswith("model.layers.0."))
    assert float(layers[0][3].rstrip("%")) == pytest.approx(100 * 4 * 64 / size, abs=0.1)


def test_a_model_far_from_its_reference_is_looked_at(tmp_path: Path) -> None:
    before, after = run_of(tmp_path, 1e-4)
    torch.manual_seed(5)
    llama().save_pretrained(tmp_path / "other")
    output = " ".join(diff(before, after, "--reference", tmp_path / "other").output.split())
    assert "Worry? Look closer: the weights are" in output
    assert "away from the reference" in output
    assert "Worry? No" in diff(before, after, "--reference", before).output


def test_an_adapter_moves_far_at_first_and_is_shown_before_and_after(tmp_path: Path) -> None:
    early, _ = adapter(2)(tmp_path / "early")
    late, _ = adapter(5)(tmp_path / "late")
    for name, tensor in (files := load_file(early / "adapter_model.safetensors")).items():
        if "lora_A" in name:  # of one run: A is initialised once
            files[name] = load_file(late / "adapter_model.safetensors")[name] + 1e-3 * torch.randn_like(
                tensor
            )
    save_file(files, early / "adapter_model.safetensors")
    found = compare(early, late)
    assert found.adapters_before.keys() == found.after.adapters.keys()
    output = diff(early, late).output
    assert "large-drift" not in output
    assert "norm was" in output


def test_the_distance_of_an_adapter_is_that_of_the_merged_weights(tmp_path: Path) -> None:
    path, _ = adapter(5)(tmp_path)
    torch.manual_seed(5)
    model: Any = llama()
    model.save_pretrained(tmp_path / "base")
    found = drift_from(inspect(path), tmp_path / "base")
    factors = load_file(path / "adapter_model.safetensors")
    moved = whole = 0.0
    for name, a in factors.items():
        if "lora_A" in name:
            update = (
                2.0 * factors[name.replace("lora_A", "lora_B")].double() @ a.double()
            )  # alpha 8 over rank 4
            weight = model.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.", ""))
            moved += update.square().sum().item()
            whole += weight.double().square().sum().item()
    assert found.drift == pytest.approx((moved / whole) ** 0.5, rel=1e-5)
    assert found.cosine is None
    torch.save({"w": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="no weights that"):
        drift_from(inspect(path), tmp_path / "other.pt")
