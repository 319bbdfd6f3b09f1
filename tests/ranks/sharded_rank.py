"""What each of two ranks runs whose model is sharded by FSDP2: a real run.

``accelerate`` shards on accelerators alone, though FSDP itself works on a CPU with gloo. So this one line of it is
got round: the ``DistributedType``. The rest, from ``fully_shard`` to the gathering of weights, is what it is.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tiny_trainers
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from rlhf_otel import TelemetryCallback, faults

RANK = os.environ["RANK"]
FSDP = {"version": 2, "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]}


def allow_on_cpu() -> None:
    """Let ``accelerate`` take a CPU for a device that it shards on."""
    begin = AcceleratorState.__init__
    plugins: list[Any] = []

    def sharded(self: Any, *args: Any, fsdp_plugin: Any = None, **more: Any) -> None:
        begin(self, *args, fsdp_plugin=fsdp_plugin, **more)
        if fsdp_plugin is not None:
            plugins.append(fsdp_plugin)
        if plugins and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugins[-1]

    AcceleratorState.__init__ = sharded


def train(name: str, folder: Path) -> dict[str, Any]:
    telemetry = TelemetryCallback(journal=folder / "journal", metrics_port="off")
    trainer = tiny_trainers.MAIN[name](
        folder, [telemetry], max_steps=3, fsdp="full_shard auto_wrap", fsdp_config=FSDP, ddp_backend="gloo"
    )
    trainer.train()
    return {
        "parameters": sorted({type(parameter).__name__ for parameter in trainer.model_wrapped.parameters()}),
        "faults": sum(faults.counts().values()),
        "steps": trainer.state.global_step,
    }


def main(folder: Path, names: list[str]) -> None:
    allow_on_cpu()
    for name in names:
        seen = train(name, folder / f"{name}-{RANK}")
        (folder / f"{name}-{RANK}.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
