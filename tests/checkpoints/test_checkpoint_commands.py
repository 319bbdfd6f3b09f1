"""The commands: what people read, what programs read, and the exit codes."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))
from checkpoint_cases import adapter, changed, exchanged, filled, pair

from rlhf_otel.checkpoints.comparison import compare
from rlhf_otel.checkpoints.following import Watch
from rlhf_otel.cli import commands
from rlhf_otel.errors import CheckpointError


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["checkpoint", *map(str, arguments)])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's output directory with two sound checkpoints: 20 and 23."""
    root = tmp_path_factory.mktemp("sound")
    pair("llama", "bf16")(root)
    return root


def test_a_sound_checkpoint_is_told_in_a_few_lines(sound: Path) -> None:
    done = run("inspect", sound / "checkpoint-23")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("checkpoint-23: health 1.00, step 23; 39 tensors")
    assert "No finding." in done.output
    assert "From checkpoint-20: relative drift" in done.output
    assert "model.layers.*.mlp.up_proj.weight" in done.output
    assert max(map(len, done.output.splitlines())) <= 112


def test_a_broken_checkpoint_says_what_where_why_and_what_to_do(tmp_path: Path) -> None:
    path, _ = changed("llama", filled("layers.1.mlp.up_proj", float("nan")))(tmp_path)
    done = run("inspect", path, "--alone")
    assert done.exit_code == 3
    for part in (
        "health 0.00",
        "CRITICAL non-finite: model.layers.1.mlp.up_proj.weight",
        "why",
        "1 of 2048",
        "to do",
    ):
        assert part in done.output
    assert "From checkpoint" not in done.output


def test_json_says_the_same_and_is_strict(tmp_path: Path) -> None:
    path, _ = changed("llama", filled("layers.1.mlp.up_proj", float("nan"), one=False))(tmp_path)
    done = run("inspect", path, "--format", "json")
    assert done.exit_code == 3

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(done.output, parse_constant=refuse)
    assert (content["version"], content["step"], content["health"]) == (1, 23, 0.0)
    assert content["before"].endswith("checkpoint-20")
    assert content["findings"][0]["name"] == "non-finite"
    tensors = {tensor["name"]: tensor for tensor in content["tensors"]}
    broken = tensors["model.layers.1.mlp.up_proj.weight"]
    assert (broken["nonfinite"], broken["shape"], broken["dtype"], broken["min"]) == (
        2048,
        [64, 32],
        "F32",
        None,
    )
    assert tensors["model.norm.weight"]["spectral_norm"] is None
    assert tensors["lm_head.weight"]["spectral_norm"] > 0


@pytest.mark.parametrize("command", ["inspect", "diff", "watch"])
def test_an_error_is_one_line_and_exit_code_1(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "gone"] * (2 if command == "diff" else 1)
    done = run(command, *paths)
    assert done.exit_code == 1
    assert isinstance(done.exception, CheckpointError)


def test_diff_tells_which_layers_moved(sound: Path) -> None:
    done = run(
        "diff",
        sound / "checkpoint-20",
        sound / "checkpoint-23",
        "--reference",
        sound / "checkpoint-20",
        "--top",
        "3",
    )
    assert done.exit_code == 0, done.output
    assert "From the reference" in done.output
    assert "model.layers." in done.output
    assert "... and 4 more layers" in done.output


def test_drift_and_cosine_are_those_of_torch(sound: Path) -> None:
    from transformers import LlamaForCausalLM

    found = compare(sound / "checkpoint-20", sound / "checkpoint-23")
    states = [
        {
            name: value.double()
            for name, value in LlamaForCausalLM.from_pretrained(sound / name).state_dict().items()
        }
        for name in ("checkpoint-20", "checkpoint-23")
    ]
    before, after = (torch.cat([state[name].flatten() for name in sorted(state)]) for state in states)
    assert found.change.drift == pytest.approx(((after - before).norm() / before.norm()).item(), rel=1e-4)
    assert found.change.cosine == pytest.approx(
        torch.cosine_similarity(before, after, dim=0).item(), abs=1e-6
    )
    for one in found.movers:
        was, now = states[0][one.tensor.name], states[1][one.tensor.name]
        assert one.change.drift == pytest.approx(((now - was).norm() / was.norm()).item(), rel=1e-4)
        assert one.change.changed == (now != was).sum().item()
    assert found.movers[0].change.drift == max(one.change.drift for one in found.movers)
    layer = next(change for name, change in found.layers.items() if name == "model.layers.2")
    assert layer.after == pytest.approx(
        sum(
            value.square().sum().item()
            for name, value in states[1].items()
            if name.startswith("model.layers.2.")
        ),
        rel=1e-4,
    )


def test_the_order_of_types_does_not_matter_for_a_change(tmp_path: Path) -> None:
    values = torch.randn(1001, 3).bfloat16()
    for number, dtype in enumerate((torch.bfloat16, torch.float32, torch.float16)):
        (tmp_path / str(number)).mkdir()
        save_file({"w": values.to(dtype)}, tmp_path / str(number) / "model.safetensors")
    assert compare(tmp_path / "0", tmp_path / "1").change.changed == 0
    assert compare(tmp_path / "2", tmp_path / "0").change.drift < 1e-6


def test_checkpoints_without_a_common_tensor_are_no_comparison(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        save_file({name: torch.ones(2)}, tmp_path / name / "model.safetensors")
    with pytest.raises(CheckpointError, match="no tensor in common"):
        compare(tmp_path / "a", tmp_path / "b")


def test_an_exchanged_layer_is_the_top_mover_and_a_finding(tmp_path: Path) -> None:
    path, before = changed("llama", exchanged("layers.1.", "layers.3."), compared=True)(tmp_path)
    assert before is not None
    done = run("diff", before, path, "--format", "json")
    assert done.exit_code == 3
    content = json.loads(done.output)
    assert set(list(content["layers"])[:2]) == {"model.layers.1", "model.layers.3"}
    assert {finding["name"] for finding in content["findings"]} == {"replaced-tensor"}


def test_an_adapter_s_modules_have_an_effective_rank(tmp_path: Path) -> None:
    path, _ = adapter(5)(tmp_path)
    done = run("inspect", path)
    assert done.exit_code == 0, done.output
    assert "effective rank" in done.output
    assert " of 4" in done.output


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    save_file({"w\x1b[31m\n": torch.full((2, 2), float("nan"))}, tmp_path / "model.safetensors")
    output = run("inspect", tmp_path).output
    assert "\x1b" not in output
    assert "w?[31m?" in output


# Watching


def test_watch_once_inspects_each_in_order_against_the_one_before(sound: Path) -> None:
    done = run("watch", sound, "--once", "--interval", "0.1", "--format", "json")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert [line["step"] for line in lines] == [20, 23]
    assert [line["before"] and Path(line["before"]).name for line in lines] == [None, "checkpoint-20"]


def test_watch_exits_with_3_when_something_was_found(tmp_path: Path) -> None:
    changed("llama", filled("lm_head", float("inf")))(tmp_path)
    done = run("watch", tmp_path, "--once", "--interval", "0.1")
    assert done.exit_code == 3
    assert "non-finite: lm_head.weight" in done.output


def test_a_checkpoint_that_is_being_written_is_inspected_when_it_is_whole(
    sound: Path, tmp_path: Path
) -> None:
    whole = (sound / "checkpoint-20" / "model.safetensors").read_bytes()
    target = tmp_path / "checkpoint-5"
    target.mkdir()
    file = target / "model.safetensors"
    file.write_bytes(whole[: len(whole) // 2])
    watched = Watch(tmp_path, interval_s=0.05)
    wait, looks = watched.stop.wait, 0

    def growing(timeout: float | None = None) -> bool:
        nonlocal looks
        looks += 1
        if looks <= 3:  # the writer pauses after the third look: two are the same
            file.write_bytes(whole[: len(whole) // 2 + looks])
        elif looks == 6:
            file.write_bytes(whole)
        return wait(timeout)

    watched.stop.wait = growing  # type: ignore[method-assign]
    found = next(watched.inspections())
    assert found.health == 1.0
    assert len(found.weights) == 39


def test_what_never_becomes_a_checkpoint_is_an_error_of_watch(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    done = run("watch", tmp_path, "--once", "--interval", "0.1")
    assert done.exit_code == 1
    assert "empty" in done.stderr


def test_a_checkpoint_that_is_removed_meanwhile_is_passed_over(sound: Path, tmp_path: Path) -> None:
    for name in ("checkpoint-20", "checkpoint-23"):
        shutil.copytree(sound / name, tmp_path / name)
    watched = Watch(tmp_path, interval_s=0.05)
    remove: Callable[[], None] = lambda: shutil.rmtree(tmp_path / "checkpoint-23", ignore_errors=True)  # noqa: E731
    found = []
    for inspection in watched.inspections(once=True):
        found.append(inspection.step)
        remove()
    assert found == [20]
    assert not watched.failures


def test_watching_ends_when_it_is_told_to(tmp_path: Path) -> None:
    watched = Watch(tmp_path, interval_s=60)
    thread = threading.Thread(target=lambda: list(watched.inspections()), daemon=True)
    thread.start()
    watched.stop.set()
    thread.join(30)
    assert not thread.is_alive()
