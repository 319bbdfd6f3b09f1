"""One of two ranks: a real GRPO run whose reward breaks, and which is to be saved and stopped.

Writes the step at which this rank ended to ``FOLDER/rank-<rank>.json``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from tiny import build_trainer, variety

from rlhf_otel import TelemetryCallback

BROKEN_FROM = 8
MAX_STEPS = 300


def main(folder: Path) -> None:
    rank = int(os.environ["RANK"])
    calls = iter(range(1, 10_000))

    def reward(completions: list[str], **_: Any) -> list[float]:
        broken = next(calls) >= BROKEN_FROM
        return [math.nan if broken else score for score in variety(completions)]

    callback = TelemetryCallback(
        metrics_port="off", linger_s=0, actions=[{"rule": "NonFinite", "do": ["save", "stop"]}]
    )
    trainer = build_trainer(
        folder, [callback], reward_funcs=[reward], max_steps=MAX_STEPS, ddp_backend="gloo", beta=0.0
    )
    trainer.train()
    assert callback.run is not None
    end = callback.run.pipeline.end_of_run
    assert end is not None
    (folder / f"rank-{rank}.json").write_text(
        json.dumps({"step": trainer.state.global_step, "outcome": end.outcome, "reason": end.reason})
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
