"""One of two ranks: a real GRPO run in which the reward of rank 1 alone makes one gradient infinite.

Writes what this rank has at the end to ``FOLDER/rank-<rank>.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from failing import BAD_CALL, failing_trainer, finite, telemetry

NEVER = 9999


def main(folder: Path, guard: str) -> None:
    rank = int(os.environ["RANK"])
    callback = telemetry(guard, guard_content="tokens")
    bad_call = BAD_CALL if rank == 1 else NEVER
    trainer = failing_trainer(folder, [callback], bad_call, max_steps=8, ddp_backend="gloo")
    trainer.train()
    assert callback.run is not None
    weights = b"".join(weights.detach().numpy().tobytes() for weights in trainer.model.parameters())
    found = {
        "finite": finite(trainer),
        "step": trainer.state.global_step,
        "weights": hashlib.sha256(weights).hexdigest(),
        "dropped": callback.run.view().updates_dropped,
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
