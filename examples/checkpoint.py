"""Checkpoints: what is wrong with one, and what moved between two.

python examples/checkpoint.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import brevity, parts, sorted_share

from rlhf_otel.trl_integration import CheckpointAnalyzer, TRLIntegrationConfig, TRLIntegrationManager


def main() -> None:
    """Train, look at two checkpoints, break one and look again."""
    given, steps = parts(__doc__)
    manager = TRLIntegrationManager(
        TRLIntegrationConfig(
            algorithm="grpo", reward_functions=(sorted_share, brevity), batch_size=8, learning_rate=1e-3,
            max_completion_tokens=24, output_dir=given.output, save_steps=max(1, steps // 2),
        )
    )  # fmt: skip
    manager.setup_trl_trainer(given.model, given.data)
    manager.train_with_monitoring(num_steps=steps)
    before, after = sorted(Path(given.output).glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[-2:]
    analyzer = CheckpointAnalyzer(log_dir=f"{given.output}/checkpoint_logs")
    moved = analyzer.compare_checkpoints(before, after)
    print(f"{after.name}: health {moved['health_score']:.2f}, drift from {before.name} {moved['drift']:.4f}")
    print("moved most:", ", ".join(list(moved["top_movers"])[:3]))
    broken = analyzer.analyze_checkpoint(broken_copy(after), step=steps)
    print(f"broken: health {broken['health_score']:.2f}")
    print("\n".join(broken["recommendations"][:3]))


def broken_copy(checkpoint: Path) -> Path:
    """The same with a NaN in one matrix."""
    copy = Path(shutil.copytree(checkpoint, checkpoint.parent / "broken"))
    weights = load_file(copy / "model.safetensors")
    next(tensor for tensor in weights.values() if tensor.dim() == 2)[0, 0] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


if __name__ == "__main__":
    main()
