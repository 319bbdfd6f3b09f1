"""The guard in real GRPO runs: one that dies without it ends with it, and one that is healthy does not notice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from failing import BAD_CALL, bundles, failing_trainer, finite, telemetry
from tiny import build_trainer
from transformers import TrainerCallback

from rlhf_otel import faults
from rlhf_otel.errors import ConfigurationError, GuardError
from rlhf_otel.exporters.journal import read_journal


def anomalies(folder: Path) -> list[dict[str, Any]]:
    return [r for r in read_journal(folder / "out" / "rlhf_otel") if r["type"] == "anomaly"]


def test_without_the_guard_the_run_dies_and_its_weights_are_lost(tmp_path: Path) -> None:
    trainer = failing_trainer(tmp_path, [telemetry("off")])
    with pytest.raises(RuntimeError, match="probability tensor"):
        trainer.train()
    assert not finite(trainer)
    assert trainer.state.global_step == BAD_CALL
    assert bundles(tmp_path) == []


def test_with_the_guard_the_same_run_ends_with_finite_weights(tmp_path: Path) -> None:
    callback = telemetry()
    trainer = failing_trainer(tmp_path, [callback])
    trainer.train()
    assert trainer.state.global_step == 10
    assert finite(trainer)
    assert callback.run is not None
    assert callback.run.view().updates_dropped == 1
    (bundle,) = bundles(tmp_path)
    (fired,) = [anomaly for anomaly in anomalies(tmp_path) if anomaly["rule"] == "NonFinite"]
    assert fired["step"] == BAD_CALL
    assert "The update was dropped" in fired["detail"]
    assert str(bundle) in fired["detail"]
    assert faults.total() == 0


class Weights(TrainerCallback):
    """Copies of the weights, and of the optimizer's moments, at the end of each step."""

    def __init__(self) -> None:
        self.at: list[list[torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        moments = [m for s in kwargs["optimizer"].state.values() for m in s.values() if torch.is_tensor(m)]
        self.at.append([tensor.detach().clone() for tensor in (*kwargs["model"].parameters(), *moments)])

    def same(self, step: int, other: int) -> bool:
        pairs = zip(self.at[step - 1], self.at[other - 1], strict=True)
        return all(torch.equal(one, two) for one, two in pairs)


def test_the_bad_update_changes_neither_weights_nor_moments_and_the_next_one_does(tmp_path: Path) -> None:
    weights = Weights()
    failing_trainer(tmp_path, [telemetry(), weights], weight_decay=0.1).train()
    assert weights.same(BAD_CALL - 1, BAD_CALL)
    assert not weights.same(BAD_CALL, BAD_CALL + 1)
    assert not weights.same(BAD_CALL - 2, BAD_CALL - 1)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_healthy_run_is_the_same_bit_for_bit(tmp_path: Path, accumulation: int) -> None:
    seen = []
    for guard in ("off", "drop"):
        weights = Weights()
        arguments: dict[str, Any] = {"max_steps": 5, "gradient_accumulation_steps": accumulation}
        build_trainer(tmp_path / guard, [telemetry(guard), weights], **arguments).train()
        seen.append(weights.at[-1])
        assert bundles(tmp_path / guard) == []
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))
    assert faults.total() == 0


def test_the_trainer_is_left_as_it_was(tmp_path: Path) -> None:
    trainer = failing_trainer(tmp_path, [telemetry()])
    before = set(vars(trainer))
    trainer.train()
    assert {"compute_loss", "_get_grad_norm"} & (set(vars(trainer)) - before) == set()
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks


def test_bundles_are_limited_in_number_and_updates_are_dropped_all_the_same(tmp_path: Path) -> None:
    callback = telemetry(guard_bundles=2)
    trainer = failing_trainer(tmp_path, [callback], 2, 4, 5, 7)
    trainer.train()
    assert finite(trainer)
    assert callback.run is not None
    assert callback.run.view().updates_dropped == 4
    assert [path.name for path in bundles(tmp_path)] == [
        "step-00000002-attempt-1-rank-0",
        "step-00000004-attempt-1-rank-0",
    ]


def test_no_bundles_at_all(tmp_path: Path) -> None:
    trainer = failing_trainer(tmp_path, [telemetry(guard_bundles=0)])
    trainer.train()
    assert finite(trainer)
    assert bundles(tmp_path) == []


@pytest.mark.parametrize(
    ("mib", "parts", "left_out"), [(0.005, True, "weights"), (0.0001, False, "micro-batches")]
)
def test_a_bundle_is_limited_in_size(tmp_path: Path, mib: float, parts: bool, left_out: str) -> None:
    failing_trainer(tmp_path, [telemetry(guard_content="tokens", guard_bundle_mib=mib)]).train()
    (bundle,) = bundles(tmp_path)
    assert (bundle / "tensors.pt").exists() is parts
    assert any(
        said.startswith(left_out) for said in json.loads((bundle / "bundle.json").read_text())["left_out"]
    )
    if left_out == "weights":
        assert not list(bundle.rglob("*.safetensors"))


def test_a_bundle_that_cannot_be_written_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "out" / "rlhf_otel").mkdir(parents=True)
    (tmp_path / "out" / "rlhf_otel" / "bundles").touch()  # a file where the directory should be
    trainer = failing_trainer(tmp_path, [telemetry()])
    trainer.train()
    assert finite(trainer)
    assert trainer.state.global_step == 10
    assert faults.counts()["actions"] == 1


def test_evidence_that_cannot_be_gathered_costs_only_itself(tmp_path: Path) -> None:
    trainer = failing_trainer(tmp_path, [telemetry()])
    trainer._logs["rewards"]["broken"] = 7  # no column at all
    trainer.train()
    assert finite(trainer)
    assert faults.counts()["actions"] == 1
    assert bundles(tmp_path) == []


# --- where it cannot work


def test_training_does_not_begin_where_the_guard_cannot_work(tmp_path: Path) -> None:
    trainer = failing_trainer(tmp_path, [telemetry()])
    trainer.accelerator.scaler = object()  # as with fp16 on a GPU
    with pytest.raises(GuardError, match="loss scaler drops such updates already"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert issubclass(GuardError, ConfigurationError)
